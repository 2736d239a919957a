r"""The training rule: the last `\boxed{...}` of the response is its answer, and nothing else counts.

The paper does not publish its matching rule; docs/grading.md gives every case of this one.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.options import AMBIGUOUS, MAX_ANSWER_CHARS, Choices, read_box

BOX = "\\boxed"
_OPEN = re.compile(r"\s{0,8}\{")
_BRACE = re.compile(r"\\.|[{}]", re.S)  # an escaped brace is none


def box_content(text: str, start: int) -> str | None:
    r"""Content of the box whose `\boxed` begins at `start`; None where it does not open, or close within the limit."""
    opened = _OPEN.match(text, start + len(BOX))
    if opened is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, opened.end(), opened.end() + MAX_ANSWER_CHARS):
        if brace.group() not in "{}":
            continue
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[opened.end() : brace.start()]
    return None


def extract_boxed(text: str, choices: Choices) -> str | None:
    r"""Letter in the last `\boxed{...}` of `text`, None where that box does not state exactly one option."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    letter = choices.boxes.get(text[start + 6 : start + 9])
    if letter is not None:
        return letter
    content = box_content(text, start)
    if content is None:
        return None
    letter = read_box(content, choices)
    return None if letter == AMBIGUOUS else letter
