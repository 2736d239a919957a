"""Answers that no cue word announces: a last line that is the answer, a last sentence that ends on it, a first line."""

from __future__ import annotations

import re

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.options import AMBIGUOUS, Choices, normalise, read_whole

LABEL_CHARS = 40  # "The final answer is option (C): " before an option's text
SHORT_WORDS = 8  # "Ibuprofen (C)"
SHORT_LINE = 100  # characters; a letter with other words than its option's after it is an answer only when that short
SENTENCE = 300  # characters looked back for the start of the last sentence
LISTED = ""
_CLOSING = " \n\t`*_$\\])}>\"'.!"
_BULLET = " \t-•>*#_→➡✅✔☑️👉"
_LABELLED = re.compile(r"[\s>*#_(\[-]{0,6}(?:option |choice )?([a-z])(?:[)\].:*]|\n|$)", re.I)
_END_LETTER = re.compile(r"(?:^|[\s(\[\"'*:$→={])([A-Z])$")
_OPTION_LETTER = re.compile(r"\b(?:option|choice|answer)\s{1,2}[(\[*\"']{0,3}([A-Z])\b(?![-'’])", re.I)
_BARE_LETTER = re.compile(r"(?<![A-Za-z0-9'’-])([A-Z])(?![A-Za-z0-9'’-])(?!\s[a-z]{2})")
_MARKED = re.compile(r"[(\[\"'*${](?:(?:option|choice|answer)\s)?$")
_UNFINISHED = re.compile(r"\b[a-z]+ [ai]$")  # "The answer is a": an article, cut off
_FIRST_STOP = re.compile(r"(?<=[^\s(\[*][\w)\]])(?:[.;]\s|\s[-–—(])")
_BE = re.compile(r"\s(?:is|was|of|be)$")
_NAMED = re.compile(r"\b(?:option|choice|answer)\s{1,2}[(\[*\"']{0,3}$")
_MAPPING = re.compile(
    r"\b(?:consistent with|correspond\w*|match\w*|points? to|fits|leads? to|which is|this is|align\w* with|supports?)\b"
)
_OPENING_WORD = re.compile(r"[\s*_\"'#]{0,6}(yes|no|maybe)\b[*_\"']{0,3}(?:[,.;:!\n]|\s*$|\s+[-–—])", re.I)


def read_ending(text: str, choices: Choices) -> str | None:
    """The letter (or AMBIGUOUS) that the last line or sentence of `text` is or ends on; None where it does neither.

    Args:
        text: a response without blanks at its end.
        choices: what can be stated.
    """
    last_box = text.rfind(BOX, max(0, len(text) - 60))
    if last_box >= 0:
        content = box_content(text, last_box)
        if content and last_box + len(BOX) + len(content) + 12 >= len(text):
            return read_whole(content, choices)
    body = text.rstrip(_CLOSING)
    start = body.rfind("\n") + 1
    line = body[start:].lstrip(_BULLET)
    if not line:
        return None
    if len(line) <= max(SHORT_LINE, choices.longest + LABEL_CHARS):
        earlier = body[max(0, start - 400) : start].rstrip()
        letter = _last_line(line, earlier, text, choices)
        if letter is not None:
            return letter or None
    return _last_sentence(body, text[len(body) :], choices)


def _last_line(line: str, earlier: str, text: str, choices: Choices) -> str | None:
    """The letter where the last line is an answer; LISTED where it ends a list of options."""
    short = len(line) <= SHORT_LINE and "answer" not in line.lower()
    previous = earlier[earlier.rfind("\n") + 1 :]
    labelled = _LABELLED.match(previous)
    letter = read_whole(line, choices, paraphrase=short and not labelled and not (earlier and choices.texts))
    if letter is None or _UNFINISHED.search(line):
        return None
    if not earlier:
        return letter
    if previous.endswith(":") and cues.HEDGE.search(previous.lower()):
        return None
    if labelled and letter != AMBIGUOUS and ord(labelled.group(1).upper()) + 1 == ord(letter):
        return LISTED
    if normalise(line) in choices.by_text and normalise(previous.lstrip(_BULLET)) in choices.by_text:
        return LISTED
    return letter


def _last_sentence(body: str, closers: str, choices: Choices) -> str | None:
    tail = body[-SENTENCE:]
    ends_on_letter = tail[-1] in choices.letters
    low = tail.lower()
    if "?" in closers or not (ends_on_letter or "option " in low or "choice " in low):
        return None
    sentence = tail[_sentence_start(tail) :]
    found = _END_LETTER.search(sentence) if ends_on_letter else None
    options = _OPTION_LETTER.findall(sentence)
    low = sentence.lower()
    if found is None and not options:
        return None
    letters = {letter for letter in _BARE_LETTER.findall(sentence) if letter in choices.letters}
    if len(letters | {o.upper() for o in options if o.upper() in choices.letters}) != 1:
        return None
    if cues.HEDGE.search(low) or cues.GUARD.search(low):
        return None
    if found is None:
        letter = options[0].upper()
        return letter if _MAPPING.search(low) and letter in choices.letters else None
    letter, before = found.group(1), low[: found.start(1)]
    if letter not in choices.letters or cues.TYPE_NOUN.search(_BE.sub("", before.rstrip(" (\"'*[$"))):
        return None
    marked = bool(_MARKED.search(before)) and any(c in closers for c in ")]\"'*$}")
    announced = re.search(
        r"(?:\b(?:is|be|option|choice|answer|to|with|select|choose|letter)|[:→=])[\s(\[\"'*$]*$", before
    )
    if marked and (_NAMED.search(before) or len(low.split()) <= SHORT_WORDS):
        return letter
    return letter if (marked or announced) and cues.CONCLUDING.search(low) else None


def _sentence_start(text: str) -> int:
    """Where the last sentence of `text` begins; the stop after a single letter ("C. Ibuprofen") ends none."""
    begin = max(text.rfind("\n"), text.rfind("! "), text.rfind("? ")) + 1
    stop = text.rfind(". ", begin)
    while stop > begin:
        if stop < 2 or text[stop - 2].isalnum():
            return stop + 2
        stop = text.rfind(". ", begin, stop)
    return begin


def read_opening(text: str, choices: Choices) -> str | None:
    """The letter where `text` begins with its answer and then explains it; None where it begins otherwise."""
    text = text[:4000].lstrip()
    first, _, rest = text.partition("\n")
    if choices.words:
        word = _OPENING_WORD.match(text)
        if word:
            letter = choices.by_text.get(word.group(1).lower())
            return None if letter == AMBIGUOUS else letter
    first = first[:SENTENCE].strip(_BULLET)
    if _UNFINISHED.search(first):
        return None
    letter = read_whole(first, choices, paraphrase=not choices.texts and len(first) <= SHORT_LINE)
    if letter is None:  # "C. Ibuprofen. It inhibits ...": the first sentence is the answer
        stop = _FIRST_STOP.search(first)
        named = first[: stop.start()] if stop else ""
        letter = read_whole(named, choices, paraphrase=False) if named else None
        if letter and stop and normalise(named) in choices.by_text and stop.group()[0] not in ".;":
            return None  # "Aspirin (an NSAID) inhibits ...": the subject of a sentence
    if letter is None or letter == AMBIGUOUS:
        return None
    second = rest.lstrip().partition("\n")[0]
    following = _LABELLED.match(second)
    listed = following and ord(following.group(1).upper()) == ord(letter) + 1
    return None if listed or normalise(second.lstrip(_BULLET)) in choices.by_text else letter
