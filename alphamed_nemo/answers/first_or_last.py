"""The first and the last match in a response, as HuatuoGPT-o1's script counts them; for comparison only.

Its published numbers take, over a whole benchmark, the better of first-match and last-match accuracy, and it never
abstains: the option whose words the response shares most wins. That is generous. "Option B is wrong. ... the
answer: C" is B by first match. One difference: the nearest option is found by shared words instead of by edit distance,
whose cost grows with the square of the length.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.options import AMBIGUOUS, Choices

_STATED = re.compile(r"answer is\s{0,8}([A-Z])")
_LETTER = re.compile(r"(?<![A-Za-z0-9])(?!A )([A-Z])(?![A-Za-z0-9])")
_WORD = re.compile(r"\w+")


def extract_first_and_last(text: str, choices: Choices) -> tuple[str, str] | None:
    """First and last matching letter; None for an empty response only."""
    if not text.strip():
        return None
    for pattern in (_STATED, _LETTER):
        found = [letter for letter in pattern.findall(text) if letter in choices.letters]
        if found:
            return found[0], found[-1]
    cased = " ".join(text.split())
    shown = cased.lower()
    known = [(shown, choices.by_text), (cased, choices.by_case)]  # the second where case alone tells options apart
    places = [(at.find(t), at.rfind(t), letter) for at, letters in known for t, letter in letters.items() if t in at]
    places = [place for place in places if place[2] != AMBIGUOUS]
    if places:
        return min(places)[2], max(places, key=lambda place: place[1])[2]
    words = set(_WORD.findall(shown))
    nearest = max(choices.letters, key=lambda letter: _overlap(words, set(_WORD.findall(choices.text_of(letter)))))
    return nearest, nearest


def _overlap(words: set[str], option: set[str]) -> float:
    """Dice coefficient of two sets of words."""
    return 2 * len(words & option) / (len(words) + len(option)) if option else 0.0
