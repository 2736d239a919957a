"""The first and the last match in a response, as HuatuoGPT-o1's script counts them; for comparison only.

Its published numbers take, over a whole benchmark, the better of first-match and last-match accuracy, and it never
abstains: the option most similar to the response wins. That is generous. "Option B is wrong. ... the answer: C" is B by
first match. Its quirks are kept, since they are part of its numbers; docs/grading.md lists them, and the differences.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache

from alphamed_nemo.answers.options import Choices

_RESPONSE = "## Final Response\n\n"  # the heading after which that model answers
_STATED = re.compile(r"answer is\s*([A-N])")
_COMPARED = 20_000  # characters at the end of a response whose similarity to the options is measured


def extract_first_and_last(text: str, choices: Choices) -> tuple[str | None, str | None] | None:
    """First and last matching letter, None for a letter beyond the options; None for an empty response only."""
    if not text.strip():
        return None
    text = text.rpartition(_RESPONSE)[2]
    for pattern in (_STATED, _letter_alone(choices.letters)):
        found = pattern.findall(text)
        if found:
            first, last = (letter if letter in choices.letters else None for letter in (found[0], found[-1]))
            return first, last
    if not choices.written:
        return None
    shown, options = text.lower(), choices.lowered
    if len(set(options)) < len(set(choices.written)):  # case alone tells options apart
        shown, options = text, choices.written
    held = [(option, letter) for option, letter in zip(options, choices.letters, strict=True) if option in shown]
    if held:  # by the places where each begins to stand, the furthest one: so in that script, for the first match too
        return (
            max(held, key=lambda one: shown.find(one[0]))[1],
            max(held, key=lambda one: shown.rfind(one[0]))[1],
        )
    nearest = _most_similar(shown[-_COMPARED:], options, choices.letters)
    return nearest, nearest


@lru_cache(maxsize=32)
def _letter_alone(letters: str) -> re.Pattern[str]:
    """A capital letter between characters that are not Latin letters, digits or underscores; "A " is an article.

    Each takes the characters around it with it, so "A B" holds one.
    """
    around = r"[\W\u4e00-\u9fff]"
    return re.compile(rf"(?:^|{around})(?!A )([{letters}])(?:$|{around})")


def _most_similar(text: str, options: tuple[str, ...], letters: str) -> str:
    """The letter of the option that is most similar to `text` character by character; of equal ones the last."""
    matcher = SequenceMatcher(None, "", text)
    best, nearest = 0.0, letters[-1]
    for option, letter in zip(options, letters, strict=True):
        matcher.set_seq1(option)
        similarity = matcher.ratio()
        if similarity >= best:
            best, nearest = similarity, letter
    return nearest
