"""The option that a response names with its letter and its text, where it states its answer in no other way."""

from __future__ import annotations

import re
from itertools import islice

from alphamed_nemo.answers.lenient.guards import LOOK_BACK, doubtful, last_sentence, refused
from alphamed_nemo.answers.lenient.reading import Text, own_text_at
from alphamed_nemo.answers.options import Choices

MOST = 40  # labels looked at
REACH = 6_000  # characters at the end of a response that are searched
_LABEL = re.compile(r"(?<![A-Za-z0-9'-])([A-Z])(?:[.):]|\*\*)[\s*]{1,4}(?=\S)")
_BEFORE = re.compile(  # "most closely resembles", "the process is:"
    r"(?:\b(?:is|are|was|be|to|by|with|as|text|phrase|statement|namely)|:)[\s\"'*(\[]{1,4}$"
)
_INTRODUCED = re.compile(r"\b(?:options?|choices?|follows?|following|listed|given|each|every|first)\b")


def read_named(text: str, choices: Choices) -> str | None:
    """The letter in "The form that fits this most closely is: B. Pertussis. It ..."; None where that is not the only
    option named with its letter and text, or where the response breaks off."""
    if not choices.longest or text.rstrip("*_\"')\n ")[-1:] not in (".", "!"):
        return None
    window = Text.of("\n" + text[-REACH:], choices)
    letter, stated = "", False
    for label in islice(_LABEL.finditer(window.raw), MOST):
        own = own_text_at(window, label.end())
        if own is None or own.letter != label[1]:
            continue
        if letter not in ("", label[1]):
            return None
        letter = label[1]
        before = last_sentence(window.low[max(0, label.start() - LOOK_BACK) : label.start()], labels=False)
        if not before.strip():  # on a line of its own
            before = last_sentence(window.low[max(0, label.start() - LOOK_BACK) : label.start()].rstrip(), labels=False)
            before = f"{before} " if before.endswith(":") else ""
        stated |= bool(_BEFORE.search(before)) and not (
            _INTRODUCED.search(before) or doubtful(before) or refused(window.low, label.start(), own.end)
        )
    return letter if stated else None
