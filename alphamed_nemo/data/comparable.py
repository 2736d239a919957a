"""The texts of a question in the form in which questions are compared."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable

import numpy as np
from datasketch import MinHash

from alphamed_nemo.data.letter_case import fold
from alphamed_nemo.data.question import Question

BANDS, ROWS = 16, 5  # a pair of Jaccard similarity 0.8 is a candidate with probability 1 − (1 − 0.8^5)^16 = 0.998
NEAR_WORDS = 3
CONTAINED_WORDS = 8
# words, and signs that a question may turn on: Na+, ↑ or ↓
WORDS = re.compile(r"\w+|(?<=\w)[-+]+(?!\w)|[<>=±≤≥−×÷~°→←↑↓]")


def normalise(text: str, letters: Callable[[str], str] = fold) -> str:
    """Words and mathematical signs of a text, in small letters but for genotypes, with one space between them."""
    return " ".join(WORDS.findall(letters(unicodedata.normalize("NFKC", text))))


def ngrams(text: str, words: int) -> frozenset[int]:
    """Hashes of the word n-grams of a normalised text; of the whole text where it is shorter."""
    parts = text.split()
    last = max(len(parts) - words, 0)
    return frozenset(zlib.crc32(" ".join(parts[i : i + words]).encode()) for i in range(last + 1))


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def containment(first: frozenset[int], second: frozenset[int]) -> float:
    """Share of the smaller set that is in the other."""
    return len(first & second) / min(len(first), len(second))


class Comparable:
    """The normalised texts of a question, and what is computed from them on demand."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.stem = normalise(question.stem)
        self.context = normalise(question.context)
        options = [normalise(option) or option for option in question.options]  # "+" and "−" normalise to nothing
        if len(set(options)) < len(options):  # AB, Ab, aB and ab: here case tells them apart
            options = [normalise(option, str) or option for option in question.options]
        self.answer = options[question.letters.index(question.answer)] if options else normalise(question.answer)
        self.options = tuple(sorted(options))

    @property
    def asked(self) -> tuple[str, tuple[str, ...]]:
        return self.stem, self.options

    @property
    def answered(self) -> tuple[str, str]:
        return self.stem, self.answer

    @property
    def near_grams(self) -> frozenset[int]:
        return ngrams(" ".join((self.stem, *self.options)), NEAR_WORDS)

    @property
    def body_grams(self) -> frozenset[int]:
        return ngrams(f"{self.context} {self.stem}", CONTAINED_WORDS)

    @property
    def words(self) -> int:
        return len(self.context.split()) + len(self.stem.split())

    def signature(self) -> MinHash:
        """MinHash of the 3-grams, the same in every process."""
        sketch = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=int)
        sketch.update_batch(np.fromiter(self.near_grams, dtype=np.uint64))
        return sketch

    def same_context(self, other: Comparable, share: float) -> bool:
        """A missing context contradicts none: the same question may be loaded with and without it."""
        if not self.context or not other.context or self.context == other.context:
            return True
        return containment(ngrams(self.context, CONTAINED_WORDS), ngrams(other.context, CONTAINED_WORDS)) >= share
