"""Many results beside one, by data set: accuracy, difference, corrected p-values, and what an answer costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.paired import Difference, holm, paired_difference
from alphamed_nemo.evaluation.result import EvaluationResult, Summary, summarize
from alphamed_nemo.evaluation.stats import mcnemar
from alphamed_nemo.evaluation.table_text import EMPTY, table_of, with_interval


@dataclass(frozen=True)
class Compared:
    """One result on one data set.

    Attributes:
        difference: from the first result, on the same questions; None for the first itself.
        p: of McNemar's exact test against the first, on majority answers; None for the first itself.
        p_holm: corrected for all tests of the table.
        tokens: sampled tokens per response that states an answer, those of the others included; None where lengths are
            not known.
    """

    dataset: str
    label: str
    summary: Summary
    difference: Difference | None
    p: float | None
    p_holm: float | None
    tokens: float | None


def compare_results(results: Sequence[EvaluationResult]) -> list[Compared]:
    """Every result on every data set that the first has too; the first result is what the others are compared with.

    Raises:
        ValueError: a result asked other questions of a data set than the first did.
    """
    first, *others = results
    wanted = _by_dataset(first)
    rows: list[Compared] = []
    for dataset, base in wanted.items():
        own = summarize(base, first.samples)
        rows.append(Compared(dataset, first.label, own, None, None, None, _cost(first, base)))
        for other in others:
            grades = _by_dataset(other).get(dataset)
            if grades is not None:
                rows.append(_against(first, base, other, grades, dataset))
    corrected = iter(holm([row.p for row in rows if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=next(corrected)) for row in rows]


def _by_dataset(result: EvaluationResult) -> dict[str, list[Grade]]:
    groups: dict[str, list[Grade]] = {}
    for grade in result.grades:
        groups.setdefault(grade.dataset, []).append(grade)
    return groups


def _against(
    first: EvaluationResult, base: Sequence[Grade], other: EvaluationResult, grades: Sequence[Grade], dataset: str
) -> Compared:
    theirs = {grade.id: grade for grade in grades}
    if theirs.keys() != {grade.id for grade in base}:
        raise ValueError(
            f"{first.label} and {other.label} cannot be compared on {dataset}: "
            f"{len(base)} questions and {len(theirs)}, not the same ones"
        )
    pairs = [(grade, theirs[grade.id]) for grade in base]
    return Compared(
        dataset,
        other.label,
        summarize(grades, other.samples),
        paired_difference([score(one) for one, _ in pairs], [score(two) for _, two in pairs]),
        mcnemar([one.majority_correct for one, _ in pairs], [two.majority_correct for _, two in pairs]).p,
        None,
        _cost(other, grades),
    )


def score(grade: Grade) -> float:
    """Share of a question's samples that are right."""
    return sum(grade.correct) / len(grade.correct)


def _cost(result: EvaluationResult, grades: Sequence[Grade]) -> float | None:
    responses = [response for grade in grades for response in result.rows.get(grade.id, {}).get("responses", [])]
    answers = sum(answer is not None for grade in grades for answer in grade.answers)
    if not answers or any("length" not in response for response in responses):
        return None
    return sum(response["length"] for response in responses) / answers


def comparison_table(results: Sequence[EvaluationResult]) -> str:
    """The comparison as a Markdown table; see `compare_results`."""
    head = ["data set", "model", "n", "accuracy", "difference", "p", "p (Holm)", "tokens per answer"]
    rows = [
        [
            row.dataset,
            row.label.replace("|", "\\|"),
            str(row.summary.n),
            with_interval(row.summary.accuracy, row.summary.interval),
            signed(row.difference),
            EMPTY if row.p is None else f"{row.p:.2g}",
            EMPTY if row.p_holm is None else f"{row.p_holm:.2g}",
            EMPTY if row.tokens is None else f"{row.tokens:.0f}",
        ]
        for row in compare_results(results)
    ]
    return table_of(head, rows, texts=2)


def signed(difference: Difference | None) -> str:
    """A difference in points with its interval: "+3.1 [−0.2, +6.4]"."""
    if difference is None:
        return EMPTY
    value, low, high = (f"{100 * part:+.1f}" for part in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]".replace("-", "−")
