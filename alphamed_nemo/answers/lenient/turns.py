"""Where a response ends and something else begins: a base model goes on with a next question, and answers that too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from alphamed_nemo.answers.options import Choices
from alphamed_nemo.answers.plain import normalise

INTRODUCTION = 12  # words; before "Question:", no more than these introduce the question that was asked
MOST = 8  # turns looked at
STEM = 2000  # characters looked back for the beginning of a question that ends in a list of options

_HEADING = re.compile(
    r"\n[\s#*_>\[(+•·~-]{0,8}+(?:\d{1,3}[.)] ?)?[*_]{0,2}"
    r"(?:(?:(?:New|Next|Another|The next) )?(?:[Qq]uestion|QUESTION|[Qq]ues|MCQ|Q)s?"
    r"(?:[ .]?(?:[Nn]o\. ?|#)?\d{1,4})?[\])*_ ]{0,4}?(?:[:.\])]|\n)|(?:Next|Another) question\b|Problem #?\d{1,4}\b"
    r"|(?:Human|User|Instruction)\s?:|(?<=#) Instructions?\b)"
)
_TOKEN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>\s?(?:user|human|system)|<\|(?:endoftext|end_of_text|user|eot_id|im_end)\|>|\[INST\]"
)
_SUMMARY = re.compile(  # of the answers to several questions; a base model writes it after its worked examples
    r"\n(?:(?:Now|So|Finally|Therefore),? )?(?:[Ll]et's |[Ll]et us |I'll |I will )?"
    r"(?:[Ss]ummari[sz](?:e|ing)|[Cc]ombin(?:e|ing)|[Cc]ollect(?:ing)?|[Ll]ist(?:ing)?) (?=[^\n:]{0,60}\ball\b)"
    r"(?:(?:all|the|of|our|my|these|final) ){1,4}answers?\b[^\n:]{0,40}:"
)
_LIST = re.compile(r"\n[ *(]{0,4}+A[).:][ *]{1,4}(?=\S)")


def may_have_turns(text: str) -> bool:
    """A quick test, which the usual short response fails."""
    return "\n" in text or "|>" in text or "[INST]" in text


def before_turns(text: str, choices: Choices) -> Iterator[tuple[str, bool]]:
    """What stands before each turn, and whether nothing after it counts even where this holds no answer."""
    turns = []
    if "\n" in text and _may_have_heading(text):
        turns += [(turn.start(), True) for turn in islice(_HEADING.finditer(text), MOST)]
    if "|>" in text or "[INST]" in text:
        turns += [(turn.start(), True) for turn in islice(_TOKEN.finditer(text), MOST)]
    if " answer" in text and " all " in text:
        turns += [(turn.start(), False) for turn in islice(_SUMMARY.finditer(text), 1)]
    for start, ends in sorted(turns):
        head = text[:start].rstrip()
        if head:
            yield head, ends and len(head.split(maxsplit=INTRODUCTION)) > INTRODUCTION
    if not ("\n\n" in text and ("?" in text or "-old" in text) and ("A." in text or "A)" in text or "A:" in text)):
        return
    for entry in islice(_LIST.finditer(text), MOST):
        stem = text[max(0, entry.start() - STEM) : entry.start()].rstrip()
        begin = stem.rfind("\n\n")
        patient = "-old" in stem[begin:]
        if (
            begin > 0
            and (patient or "?" in stem[begin:])
            and not _is_own(text[entry.end() : entry.end() + 200], choices)
        ):
            yield text[: max(0, entry.start() - STEM) + begin].rstrip(), patient and bool(choices.texts)


def _may_have_heading(text: str) -> bool:
    """A quick test, which most responses fail."""
    return (
        "uestion" in text
        or "Q" in text
        or "Human:" in text
        or "User:" in text
        or "Instruction" in text
        or "Problem " in text
    )


def _is_own(entry: str, choices: Choices) -> bool:
    """Whether a list that begins with `entry` is the list of the options that were asked about."""
    own = choices.texts[0] if choices.texts else ""
    return bool(own) and normalise(entry).startswith(own)
