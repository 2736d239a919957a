"""Answers that no cue word announces: a last line that is the answer, a last sentence that ends on it, a first line."""

from __future__ import annotations

import re
from itertools import takewhile

from alphamed_nemo.answers.boxed import BOX, box_content
from alphamed_nemo.answers.lenient import cues
from alphamed_nemo.answers.lenient.guards import LOOK_BACK, doubtful, refused
from alphamed_nemo.answers.options import AMBIGUOUS, DENIED, EPITHET, Choices, read_box, read_whole
from alphamed_nemo.answers.plain import normalise

LABEL_CHARS = 40  # "The final answer is option (C): " before an option's text
SHORT_WORDS = 8  # "Ibuprofen (C)"
SHORT_LINE = 100  # characters; a letter with other words than its option's after it is an answer only when that short
SENTENCE = 300  # characters looked back for the start of the last sentence
LISTS = 3000  # characters looked back for the list that a last line may belong to
LISTED = ""
CLOSED = ".!?)\"'*`>"  # how a response ends that was not cut off
SHORT_TEXT = 12  # characters; a shorter text may be named beside the answer
_WORD = re.compile(r"[A-Za-z0-9]")
_CLOSING = " \n\t`*_$\\])}>\"'.!"
_BULLET = " \t-•>*#_→➡✅✔☑️👉"
_LABELLED = re.compile(r"[\s>*#_(\[-]{0,6}(?:option |choice )?([a-z])(?:[)\].:*]|\n|$)", re.I)
_ENTRY = re.compile(  # in a text that begins with a line break
    r"\n[ >*#_(\[\t-]{0,6}+(?:[Oo]ption |[Cc]hoice |OPTION )?([A-Za-z])[*_]{0,2}(?:[)\].:]|(?=\n|$))"
)
_INLINE_ENTRY = re.compile(r"(?:^|[\s(])[A-Z][):]\s|[.;]\s[A-Z]\.\s")
_REASONED = re.compile(
    r"[*_(\[]{0,3}(?:Option |Choice )?([A-Z])(?:[)\]]?[*_]{0,2}[.):,]|\s[—–-])[*_]{0,2}\s{1,2}(?=[A-Z\"'*])"
)
_SENTENCE = re.compile(
    r"\b(?:is|are|was|were|because|since|so|cannot|can|would|as|answer)\b", re.I
)  # no list of letters
_ANNOUNCED = re.compile(
    r"\b(?:answer|choose|choice is|option is|select|conclusion|conclude|therefore|thus|correct|best)\b"
)
_INTRODUCED = re.compile(  # the line before a list of the options
    r"\b(?:options|choices|(?:the|as) follow(?:s|ing))\b"
    r"|\b(?:each|every|one by one|in turn|consider|evaluat\w+|analy[sz]\w+|compare|review|look)\b.*:\W*$"
)
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
_LINE_ANSWER = re.compile(r"\W*(?:the |my |final |correct ){0,3}answer(?: is|:)[\s:(*]*([a-j])\b", re.I)
_STATED_LETTER = re.compile(r"(?i:\b(?:answer|option|choice)(?: is|:)?[\s:(\[*]{1,6})([A-Z])[)\].:*]{0,4}$")
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
        if content and not _WORD.search(text, last_box + len(BOX) + len(content) + 2):
            before = text[max(0, last_box - LOOK_BACK) : last_box].lower()
            return None if refused(before, len(before), len(before)) else read_box(content, choices)
    body = text.rstrip(_CLOSING)
    start = body.rfind("\n") + 1
    line = body[start:].lstrip(_BULLET)
    if not line or text.rfind("\\[", start) > text.rfind("\\]", start):  # within a formula
        return None
    if len(line) <= max(SHORT_LINE, choices.longest + LABEL_CHARS):
        letter = _last_line(line, body[:start].rstrip(), text, choices)
        if letter is not None:
            return letter or None
    elif start:
        letter = _last_reasoned(line, body[:start], text, choices)
        if letter is not None:
            return letter
    return _last_sentence(body, text[len(body) :], choices)


def _last_line(line: str, before: str, text: str, choices: Choices) -> str | None:
    """The letter where the last line is an answer; LISTED where it ends a list of options."""
    short = len(line) <= SHORT_LINE and "answer" not in line.lower()
    previous = before[before.rfind("\n") + 1 :]
    labelled = _LABELLED.match(previous)
    letter = read_whole(line, choices, paraphrase=short and not labelled and not (before and choices.texts))
    if letter is None:
        return _last_reasoned(line, before, text, choices)
    if (
        _UNFINISHED.search(line)
        or (letter == AMBIGUOUS and _SENTENCE.search(line))
        or _cut_off(line, letter, text, choices)
    ):
        return None
    if not before:
        return letter
    if previous.endswith(":") and cues.HEDGE.search(previous.lower()):
        return None
    stated = _STATED_LETTER.search(previous[-SHORT_LINE:])
    if stated and stated[1] != letter and stated[1] in choices.letters and normalise(line) in choices.by_text:
        return letter if doubtful(previous.lower()) else AMBIGUOUS
    if letter != AMBIGUOUS and _ends_list(line, letter, before, previous, choices):
        return LISTED
    above = choices.by_text.get(normalise(previous.lstrip(_BULLET)), letter)
    if above != letter and normalise(line) in choices.by_text and not text.startswith("\n\n", len(before)):
        return LISTED  # the line above is another option, so this is one of several
    return letter


def _cut_off(line: str, letter: str, text: str, choices: Choices) -> bool:
    """Whether the response breaks off in what follows an option: no mark ends it, and it is not the option itself."""
    if text[-1] in ",(-–—":
        return True
    if not text[-1].isalnum():
        return False
    if text[-1] not in choices.letters or line[-2:-1].isalnum():
        shown, own = normalise(line), choices.text_of(letter) if letter != AMBIGUOUS else ""
        return not ((own and shown.endswith(own)) or shown in choices.by_text or shown[-2:-1] in ("", " ", "(", ":"))
    return False


def _ends_list(line: str, letter: str, before: str, previous: str, choices: Choices) -> bool:
    """Whether the last line is an entry of a list that goes from option to option, and not what follows it."""
    if "answer" in line.lower():
        return False
    previous = previous[-SHORT_LINE:].lower()
    if previous.endswith((":", ":**")) and _ANNOUNCED.search(previous):
        return False
    order = choices.letters.index(letter)
    if order == 0:
        return _INTRODUCED.search(previous) is not None
    recent = "\n" + before[-LISTS:]
    entries = [found.upper() for found in _ENTRY.findall(recent)]
    last_list = entries[len(entries) - 1 - entries[::-1].index("A") :] if "A" in entries else entries
    if last_list and last_list[-1] == choices.letters[order - 1] and letter not in last_list:
        return True
    if (
        _LABELLED.match(line)
        or normalise(line) not in choices.by_text
        or choices.texts[order - 1] not in recent.lower()
    ):
        return False
    heads = [normalise(entry.lstrip(_BULLET)) for entry in recent.split("\n")[-40:]]
    earlier, later = choices.texts[order - 1], choices.texts[order + 1 :]
    return any(earlier and head.startswith(earlier) for head in heads) and not any(
        text and head.startswith(text) for head in heads for text in later
    )


def _last_reasoned(line: str, before: str, text: str, choices: Choices) -> str | None:
    """The letter of a last line that gives its reason, where that is no entry of a list: one begins with the first."""
    letter = _reasoned(line, text, choices)
    if letter is None or letter == choices.letters[0] or not before:
        return None
    return None if _ENTRY.search("\n" + before[-LISTS:]) else letter


def _reasoned(line: str, text: str, choices: Choices) -> str | None:
    """The letter of "B. The patient has a new murmur, so ...": an answer with its reason, in whole sentences."""
    found = _REASONED.match(line)
    letter = found[1] if found else ""
    if not found or letter not in choices.letters or text.rstrip("*_\"')")[-1:] not in (".", "!"):
        return None
    reason = line[found.end() :]
    low = normalise(reason)
    if cues.AGAINST.search(low) or EPITHET.match(reason) or _INLINE_ENTRY.search(reason) or len(low.split()) < 4:
        return None
    return None if any(len(text) > 3 and low.startswith(text) for text in choices.texts) else letter


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
    if "answer" in low or " would " in low or cues.HEDGE.search(low) or doubtful(low):
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


def _first_sentence(line: str, choices: Choices, breaks_off: bool) -> str | None:
    """The letter where `line` begins with an option, ended by a stop, or by a dash or a bracket and its explanation."""
    stop = _FIRST_STOP.search(line)
    if stop is None:
        return None
    named, full_stop = line[: stop.start()], stop.group()[0] in ".;"
    letter = read_whole(named, choices, paraphrase=False)
    if letter is None or letter == AMBIGUOUS:
        return letter
    own = choices.text_of(letter)
    if own and own not in normalise(named) and own in normalise(line):
        return None  # the stop is within the option's text
    if not full_stop and (breaks_off or line[-1:].isalnum() or normalise(named) in choices.by_text):
        return None  # "Aspirin (an NSAID) inhibits ...": the subject of a sentence
    if DENIED.match(normalise(line[stop.start() + 1 :])) or _INLINE_ENTRY.search(line, stop.start()):
        return None
    return letter


def read_opening(text: str, choices: Choices) -> str | None:
    """The letter where `text` begins with its answer and then explains it; None where it begins otherwise."""
    text = text.lstrip()
    first, _, rest = text[:4000].partition("\n")
    if choices.words:
        word = _OPENING_WORD.match(text)
        if word:
            letter = choices.by_text.get(word.group(1).lower())
            return None if letter == AMBIGUOUS else letter
    line = first.strip(_BULLET)
    first = line[:SENTENCE]
    if _UNFINISHED.search(first) or BOX in first:
        return None
    letter = read_whole(first, choices, paraphrase=not choices.texts and len(first) <= SHORT_LINE)
    breaks_off = not rest and letter is not None and _cut_off(first, letter, text, choices)
    if letter is None or breaks_off:  # "C. Ibuprofen. It inhibits ...": the first sentence is the answer
        letter = _first_sentence(first, choices, breaks_off)
    if letter is None and not _ENTRY.search("\n" + rest[:LISTS]):
        letter = _reasoned(line, text, choices)
    if letter is None or letter == AMBIGUOUS:
        return None
    if letter == choices.letters[0] and rest and text[-1].isalnum():
        return None  # the first entry of a list, cut off
    if not _LABELLED.match(first) and _lists_texts(text, letter, choices):
        return None
    second = rest.lstrip().partition("\n")[0]
    following = _LABELLED.match(second)
    listed = following and ord(following.group(1).upper()) == ord(letter) + 1
    return None if listed or normalise(second.lstrip(_BULLET)) in choices.by_text else letter


def _lists_texts(text: str, letter: str, choices: Choices) -> bool:
    """Whether `text` breaks off after it named another option than `letter` by its text, going from one to the next."""
    if text[-1] in CLOSED:
        return False
    said, own = normalise(text[:LISTS]), choices.text_of(letter)
    return any(len(other) > SHORT_TEXT and other != own and other in said for other in choices.texts)


def ends_on_several(text: str) -> bool:
    """Whether the last lines of `text` state three different answers, as after a prompt with worked examples."""
    if text.count("nswer", max(0, len(text) - SENTENCE)) < 3:
        return False
    lines = reversed([line for line in text[-SENTENCE:].split("\n") if line.strip()])
    found = takewhile(bool, map(_LINE_ANSWER.match, lines))
    return len({stated[1].upper() for stated in found if stated}) >= 3
