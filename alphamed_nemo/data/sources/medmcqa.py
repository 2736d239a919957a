"""MedMCQA (Pal et al., 2022, PMLR 174): questions of Indian medical entrance examinations, four options.

`cop` is the correct option. The authors' files count it from 1; the hub's `openlifescienceai/medmcqa` declares it as
a class label (a, b, c, d), so counts from 0, and has -1 where the answer is withheld (the test split). A reader that
mixes the two up scores near zero and looks like a weak model, so what `cop` counts from is never assumed: it must
follow from the schema or from the values, and must agree with the explanations, many of which open with the letter
of the answer ("Ans. is 'b' …").
"""

from __future__ import annotations

import logging
import re
from collections import Counter

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.cells import Unusable, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet, Rows

log = logging.getLogger(__name__)

OPTIONS = ("opa", "opb", "opc", "opd")
WITHHELD = -1
MIN_EXPLAINED = 5  # explanations with a letter, below which they decide nothing
EXPLAINED = re.compile(r"\W*ans(?:wer)?\b\W*(?:is\b)?\W*([a-d])(?=[^\w']|'\W|$)", re.IGNORECASE)


class MedMCQA(Loader):
    hub = HubSet("openlifescienceai/medmcqa", evaluation_split="validation")
    required = ("question", *OPTIONS)

    def __init__(self, name: str, source: SourceConfig, rows: Rows) -> None:
        super().__init__(name, source, rows)
        self.base = cop_base(rows, source.cop_base)
        log.info("%s: cop counts from %d", name, self.base)

    def question(self, row: dict) -> Question:
        cop = cop_value(row)
        if cop is not None and not 0 <= cop - self.base < len(OPTIONS):
            raise Unusable("answer not among the options", f"cop {cop}, counted from {self.base}")
        return self.build(
            row["question"],
            [row[column] for column in OPTIONS],
            "" if cop is None else LETTERS[cop - self.base],
            id=row.get("id"),
            subject=row.get("subject_name"),
            topic=row.get("topic_name"),
            choice_type=row.get("choice_type"),
        )


def cop_value(row: dict) -> int | None:
    """`cop` as a number; None where the answer is withheld. Raises: Unusable."""
    value = text(row.get("cop"), "cop")
    if not value:
        return None
    try:
        number = float(value)  # CSV readers turn a column with gaps into floats
    except ValueError:
        raise Unusable("answer not among the options", f"cop {value!r}") from None
    if number == WITHHELD:
        return None
    if not number.is_integer():
        raise Unusable("answer not among the options", f"cop {value!r}")
    return int(number)


def cop_base(rows: Rows, told: int | None) -> int:
    """What `cop` counts from, 0 or 1.

    Args:
        told: `cop_base` of the config; still checked against the rows.

    Raises:
        ValueError: the schema, the values, the explanations and `told` disagree, or nothing decides.
    """
    values = _counts(rows)
    verdicts = {"cop_base": told, "the schema": _base_of_schema(rows), "the values": _base_of_values(rows, values)}
    explained, letters = _base_of_explanations(rows)
    verdicts[f"{letters} explanations that name the letter"] = explained
    verdicts = {source: base for source, base in verdicts.items() if base is not None}
    found = f"{rows.origin}: cop has the values {dict(sorted(values.items()))}"
    if not verdicts:
        raise ValueError(f"{found}, which do not tell whether it counts from 0 or 1; set cop_base to 0 or 1")
    if len(set(verdicts.values())) > 1 or not set(verdicts.values()) <= {0, 1}:
        said = ", ".join(f"{base} by {source}" for source, base in verdicts.items())
        raise ValueError(f"{found}; what it counts from is not clear: {said}; expected all to give 0, or all 1")
    return next(iter(verdicts.values()))


def _counts(rows: Rows) -> Counter[int]:
    values: Counter[int] = Counter()
    for row in rows.rows:
        try:
            value = cop_value(row)
        except Unusable:
            continue  # counted when the row itself is read
        if value is not None:
            values[value] += 1
    return values


def _base_of_schema(rows: Rows) -> int | None:
    """A class label numbers its names from 0."""
    names = [name.casefold() for name in rows.classes.get("cop", [])]
    return 0 if names == ["a", "b", "c", "d"] else None


def _base_of_values(rows: Rows, values: Counter[int]) -> int | None:
    """0 occurs only where counting starts at 0, and 4 only where it starts at 1."""
    if 0 in values and len(OPTIONS) in values:
        raise ValueError(f"{rows.origin}: cop has both 0 and {len(OPTIONS)}, so it has no single base: {values}")
    return 0 if 0 in values else 1 if len(OPTIONS) in values else None


def _base_of_explanations(rows: Rows) -> tuple[int | None, int]:
    """The base that most explanations agree with, and how many name a letter."""
    bases: Counter[int] = Counter()
    for row in rows.rows:
        match = EXPLAINED.match(text(row.get("exp")))
        if match:
            try:
                cop = cop_value(row)
            except Unusable:
                continue
            if cop is not None:
                bases[cop - LETTERS.index(match[1].upper())] += 1
    total = sum(bases.values())
    best = 0 if bases[0] > bases[1] else 1
    decided = total >= MIN_EXPLAINED and bases[best] > 0.5 * total
    return (best if decided else None), total
