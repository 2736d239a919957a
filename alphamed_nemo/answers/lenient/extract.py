"""A final answer however a model states it; the statement that the response ends on wins.

The response is searched from its end in windows that grow eightfold, so the usual response costs its last few hundred
characters and no response costs more than a small multiple of its length. docs/grading.md lists the wordings.
"""

from __future__ import annotations

import re

from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.lenient.endings import ends_on_several, read_ending, read_opening
from alphamed_nemo.answers.lenient.named import read_named
from alphamed_nemo.answers.lenient.reading import Text
from alphamed_nemo.answers.lenient.statements import Statement, contradicted, statement_at
from alphamed_nemo.answers.lenient.turns import before_turns, may_have_turns
from alphamed_nemo.answers.lenient.usual import read_usual
from alphamed_nemo.answers.options import AMBIGUOUS, Choices
from alphamed_nemo.answers.plain import readable, spelt_out

# Distances from the end: cue words are looked for up to the first, in a text that reaches back to the second.
STEPS = ((160, 900), (700, 900), (5_600, 6_000), (44_800, 45_200))
STRONG_REACH = 200  # characters; beyond the step after it, an answer that is only an option's text is believed
LONGEST_KEY = 16  # characters
MAX_CUES = 400  # cue words tried before giving up, so that a megabyte of "answer is" costs what a page does
WEAK_TAIL = 200  # characters that may follow a statement that only names an option's text
_SPECIAL = re.compile(r"<\|?/?[a-z_]{1,20}\|?>\s*$|\[/?[A-Z]{2,6}\]\s*$")
OPENING = ("(", "[", "*")
_OPEN_END = re.compile(r"(?:[(\[]|\*\*)[A-Za-z]\Z")  # "the answer is (C": cut off, perhaps within a word
_COUNTER = re.compile(r"\b(?:but|however|although|though)\b")


def extract_lenient(text: str, choices: Choices) -> str | None:
    """Letter that `text` states last, None where it states none, or states it as several or as no option."""
    if not text.isascii():
        text = readable(text)
    if may_have_turns(text):
        for head, final in before_turns(text, choices):
            letter = _extract(head, choices)
            if letter is not None or final:
                return letter
    return _extract(text, choices)


def _extract(text: str, choices: Choices) -> str | None:
    text = text.rstrip()
    if text.endswith((">", "]")):
        text = _without_special_tokens(text)
    if text[-2:-1] in OPENING and (cut_off := _OPEN_END.search(text, max(0, len(text) - 3))):
        text = text[: cut_off.start()].rstrip()
    if not text or ends_on_several(text):
        return None
    usual = read_usual(text, choices)
    if usual is not None:
        return usual
    ending = read_ending(text, choices)
    if ending is not None:
        return None if ending == AMBIGUOUS else ending
    text = spelt_out(text)
    weak, tried, done, window = None, 0, 0, None
    for reach, size in (*STEPS, (len(text), len(text))):
        if window is None or len(window.raw) < min(size, len(text)):
            window = Text.of("\n" + text[-size:], choices)  # so that a word at its very beginning is one, too
        end = len(window.raw) - done
        start = max(0, len(window.raw) - reach)
        found = cues.KEY.finditer(window.low, max(0, start - 1), end + LONGEST_KEY)
        keys = [key for key in found if key.start(1) < end]
        statement, weak = _last_statement(window, keys[-MAX_CUES:], weak)
        if statement is not None:
            return None if statement.letter == AMBIGUOUS else statement.letter
        tried, done = tried + len(keys), reach
        if reach >= len(text) or tried > MAX_CUES or (weak and reach > STRONG_REACH):
            break
    return weak or read_opening(text, choices) or read_named(text, choices)


def _without_special_tokens(text: str) -> str:
    """`text` without end-of-turn tokens that a decoder left in."""
    for _ in range(3):
        if not text.endswith((">", "]")):
            break
        token = _SPECIAL.search(text, max(0, len(text) - 40))
        if token is None or token.group().strip() in ("</answer>", "<answer>"):
            break
        text = text[: token.start()].rstrip()
    return text


def _last_statement(window: Text, keys: list[re.Match], weak: str | None) -> tuple[Statement | None, str | None]:
    """The last statement among `keys`, and the last weak one where there is no other."""
    for key in reversed(keys):
        statement = statement_at(window, key)
        if statement is None:
            continue
        tail = window.low[statement.end :]
        if cues.RETRACTION.search(tail) or cues.NOT_OFFERED.search(tail) or contradicted(window, statement):
            return Statement(AMBIGUOUS, statement.end), weak
        if not statement.weak:
            return statement, weak
        if weak is None and len(tail) <= WEAK_TAIL and not _COUNTER.search(tail) and statement.letter != AMBIGUOUS:
            weak = statement.letter
    return None, weak
