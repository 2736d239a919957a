r"""Usual endings, read at once: "The answer is (C).", "Answer: \boxed{C}", `"answer": "C. Ibuprofen"}`.

Nothing here is a rule of its own. What these forms state follows from the rules in statements.py and endings.py
whatever stands before them, so they are only a shorter way to the same letter; what has anything else beside it goes
the long one.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.options import Choices

REACH = 26  # characters from "answer" to the end of a response, at most
LEAD = 30  # characters before it that may belong to the sentence, and what separates that from the one before
_STATED = re.compile(
    r"""(?:\A|\n|[.!?;]\s)[\s*"'(_\#]{0,4}
    (?:(?:(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s)?[Tt]he\s(?:correct\s|final\s|best\s|right\s)?answer\sis:?(?![A-Z])
      |(?:[Ff]inal\s|[Cc]orrect\s)?[Aa]nswer:)
    (?:\**\s?\**(?:\((?P<bracketed>[A-Z])\)|(?P<bare>[A-Z]))\**\.?\**|\s?\$?\\boxed\{(?P<boxed>[A-Z])\}\$?\.?)\Z""",
    re.X,
)
_FIELD = re.compile(
    r"""(?:["']\s?,(?:\s{1,2}|\n\s{0,8})|(?:\A|\n)\s{0,8}\{?\s{0,8})"(?:final_)?answer(?:_choice)?":\s?"
    (?P<letter>[A-Z])(?:\.\s(?P<named>[^"\n]+))?"\s?\}\Z""",
    re.X,
)
_MORE = re.compile(r"[.!?:\\^_$]")  # in an option's text: more than one sentence, or something spelt in two ways
# A line that begins so may be an answer by itself, or an entry of a list.
_LABELLED = re.compile(
    r"\W*(?:(?:the|final|correct|answer|option|choice|letter|statement|is)\b\W{0,4}){0,4}(?:[a-z](?![a-z0-9])|yes|no|maybe)",
    re.IGNORECASE,
)


def read_usual(text: str, choices: Choices) -> str | None:
    """The letter that `text`, without blanks at its end, states in one of these forms; None where in none of them."""
    if text.endswith(('"}', '"\n}')):
        return _field(text, choices)
    at = text.rfind("nswer", max(0, len(text) - REACH))
    found = _STATED.search(text, max(0, at - LEAD)) if at >= 0 else None
    if found is None:
        return None
    letter = found["boxed"] or found["bracketed"] or found["bare"]
    if letter not in choices.letters:
        return None
    return letter if found["boxed"] or not _in_labelled_line(text, found.start(), at) else None


def _in_labelled_line(text: str, start: int, at: int) -> bool:
    """Whether the line of the position `at` begins before `start`, and so that it may be an answer by itself."""
    begin = text.rfind("\n", 0, at) + 1
    return begin < start and _LABELLED.match(text, begin) is not None


def _field(text: str, choices: Choices) -> str | None:
    """The letter of the last field of a JSON object, alone or with its option's text as it was given."""
    at = text.rfind("answer")
    found = _FIELD.search(text, max(0, at - 20)) if at >= 0 else None
    if found is None or found["letter"] not in choices.letters or _in_labelled_line(text, found.start(), at):
        return None
    letter, named = found["letter"], found["named"]
    if named is None:
        return letter
    if not choices.written or choices.written[choices.letters.index(letter)] != named:
        return None
    return None if _MORE.search(named) or cues.KEY.search(f" {named.lower()}") else letter
