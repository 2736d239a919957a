"""From a response to the letter that it answers with, by a named protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alphamed_nemo.answers.boxed import extract_boxed
from alphamed_nemo.answers.first_or_last import extract_first_and_last
from alphamed_nemo.answers.lenient.extract import extract_lenient
from alphamed_nemo.answers.options import Choices, choices_of


def _last_match(text: str, choices: Choices) -> str | None:
    pair = extract_first_and_last(text, choices)
    return pair and pair[1]


def _first_match(text: str, choices: Choices) -> str | None:
    pair = extract_first_and_last(text, choices)
    return pair and pair[0]


# The protocols of one response. `first_or_last` of a set is the better of first_match and last_match over the set
# (evaluation/grading.py); of a single response it can only be one of them.
PROTOCOLS: dict[str, Callable[[str, Choices], str | None]] = {
    "boxed": extract_boxed,
    "lenient": extract_lenient,
    "first_match": _first_match,
    "last_match": _last_match,
}


def extractor(protocol: str) -> Callable[[str, Choices], str | None]:
    """Raises ValueError where the protocol is unknown."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]


def extract_answer(text: str, options: Sequence[str], protocol: str = "boxed") -> str | None:
    """Letter of the option that `text` answers with, or None where it states no single option.

    Args:
        text: the response.
        options: option texts in the order shown, or the letters alone as a string such as "ABCD".
        protocol: boxed (the training rule), lenient, first_match or last_match; see docs/grading.md.

    Raises:
        ValueError: the protocol is unknown.
    """
    return extractor(protocol)(text, choices_of(options))
