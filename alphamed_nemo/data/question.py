"""The question: the one noun that every stage shares."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alphamed_nemo.data.value import Value, value_of

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with 2 to 26 options, of which one is the key; or one that asks for a value.

    Attributes:
        id: unique in its data set and stable over runs.
        dataset: name of the data set it came from.
        stem: the question itself, without its options.
        options: option texts in the order shown; the i-th has the letter `LETTERS[i]`. Two wrong ones may have the
            same text, as in some published questions; texts that differ by case are different (`BB`, `Bb`, `bb`).
            Empty where a value is asked for, which is for evaluation only.
        answer: letter of the correct option; the value as published where there are no options.
        context: text shown before the stem (PubMedQA's abstracts); empty for most sets.
        level: difficulty level, 1 (L1, easiest) and up, or None before labelling.
        metadata: anything else that the source gives and reports may use. `value` says which values are right
            (data/value.py), `order` in which order options are shown, as letters ("DABC"); else it is A, B, C, ….

    Raises:
        ValueError: the fields do not make a usable question; the message says which and why.
    """

    id: str
    dataset: str
    stem: str
    options: tuple[str, ...]
    answer: str
    context: str = ""
    level: int | None = None
    metadata: dict = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.options, (str, Mapping)):  # tuple() would make options of its characters, or of its keys
            raise ValueError(f"question {self.id}: options are {type(self.options).__name__}, expected a list of texts")
        object.__setattr__(self, "options", tuple(self.options))
        for name, value in (("stem", self.stem), ("context", self.context), *(("option", o) for o in self.options)):
            if not isinstance(value, str):
                raise ValueError(f"question {self.id}: {name} is {value!r}, expected text")
        if not self.stem.strip():
            raise ValueError(f"question {self.id}: empty stem")
        if not self.options and "value" in self.metadata:
            value_of(self.id, self.answer, self.metadata)
            return
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"question {self.id}: {len(self.options)} options, expected 2 to {len(LETTERS)}")
        if any(not option.strip() for option in self.options):
            raise ValueError(f"question {self.id}: empty option")
        if self.answer not in self.letters:
            raise ValueError(f"question {self.id}: answer {self.answer!r} is not one of {', '.join(self.letters)}")
        if same_text(self.answer_text) in repeated_texts(self.options):
            raise ValueError(
                f"question {self.id}: duplicate options: {self.answer_text!r}, the correct one, occurs twice"
            )
        if sorted(self.metadata.get("order", self.letters)) != list(self.letters):
            raise ValueError(f"question {self.id}: order {self.metadata['order']!r}, expected each letter once")

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.options)])

    @property
    def answer_text(self) -> str:
        return self.options[self.letters.index(self.answer)] if self.options else self.answer

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Letter and text of each option, in the order shown."""
        texts = dict(zip(self.letters, self.options, strict=True))
        return [(letter, texts[letter]) for letter in self.metadata.get("order", self.letters)]

    @property
    def value(self) -> Value | None:
        """Which values are right; None for a question with options."""
        return None if self.options else value_of(self.id, self.answer, self.metadata)


def same_text(option: str) -> str:
    """An option in the form in which two are the same: with single spaces, and composed characters (Unicode NFC)."""
    return " ".join(unicodedata.normalize("NFC", option).split())


def repeated_texts(options: Sequence[str]) -> set[str]:
    """What more than one option says, in the form of `same_text`."""
    texts = [same_text(option) for option in options]
    return {text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else set()
