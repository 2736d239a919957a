"""Questions that ask for a value: which stated values are right.

The kinds and the tolerance are those of MedCalc-Bench (arXiv 2406.12036, evaluation/evaluate.py): a decimal number lies
between two limits, 5 % to either side of the answer in the authors' data; an integer is rounded, then equal; a date,
or an age in weeks and days, is equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, get_args

Kind = Literal["decimal", "integer", "date", "weeks"]

DATE = re.compile(r"(?<![\d/])(0?[1-9]|1[0-2])/(0?[1-9]|[12]\d|3[01])/(\d{4})(?![\d/])")  # month/day/year
WEEKS = re.compile(r"\W*(\d{1,3})(?!\d)\W*(?:weeks?|wks?)?\W*(?:and)?\W*(\d{1,3})(?!\d)\W*(?:days?)?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """What is right.

    Attributes:
        key: the published answer: a number, `month/day/year`, or weeks and days as "(17, 4)".
        low, high: limits of a decimal number, both right; elsewhere not used.
    """

    kind: Kind
    key: str
    low: float = math.nan
    high: float = math.nan

    def accepts(self, stated: str) -> bool:
        """Whether a value, as `answers/numeric.py` states it, is right."""
        if self.kind == "date":
            return date_of(self.key) is not None and date_of(stated) == date_of(self.key)
        if self.kind == "weeks":
            return weeks_of(self.key) is not None and weeks_of(stated) == weeks_of(self.key)
        number = float(stated.removesuffix("%"))
        if not math.isfinite(number):
            return False
        if self.kind == "integer":
            return round(number) == round(float(self.key))
        return self.low <= number <= self.high or (stated.endswith("%") and self.low <= number / 100 <= self.high)


def date_of(shown: str) -> date | None:
    """The one date in a text; None where there is none, or another."""
    found = {(int(match[3]), int(match[1]), int(match[2])) for match in DATE.finditer(shown)}
    try:
        return date(*found.pop()) if len(found) == 1 else None
    except ValueError:  # 31 April
        return None


def weeks_of(shown: str) -> tuple[int, int] | None:
    """(weeks, days) of a text such as "(17 weeks, 4 days)" or "17 weeks and 4 days"; None for any other."""
    match = WEEKS.fullmatch(shown)
    return (int(match[1]), int(match[2])) if match else None


def value_of(id: str, answer: str, metadata: Mapping[str, Any]) -> Value:
    """The value that a question without options asks for, of `metadata["value"]` and its answer.

    Raises:
        ValueError: they do not say which values are right; names the question.
    """
    given = metadata["value"]
    if not isinstance(given, Mapping) or given.get("kind") not in get_args(Kind):
        raise ValueError(f"question {id}: value {given!r}, expected kind as one of {', '.join(get_args(Kind))}")
    kind: Kind = given["kind"]
    value = Value(kind, answer)
    try:
        if kind == "decimal":
            value = Value(kind, answer, *sorted((float(given["low"]), float(given["high"]))))  # 95 % of −4 is above it
        right = value.accepts(answer)
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"question {id}: the answer {answer!r} is no {kind}, or not within its own limits, {given!r}")
    return value
