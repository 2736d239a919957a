"""What a result's accuracy depends on: level, length, what the set says of its questions, agreement of the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.result import EvaluationResult, Summary, summarize
from alphamed_nemo.evaluation.stats import majority, pass_at_k, wilson
from alphamed_nemo.evaluation.table_text import percent, table_of, with_interval

LENGTHS = (25, 50, 100, 200)  # words of a question with its context and options: where one group ends, the next begins
MOST_VALUES = 30  # a property with more values than this names questions rather than groups of them


@dataclass(frozen=True)
class Agreement:
    """Questions whose most frequent answer has `votes` of the samples, unanswered ones included.

    Attributes:
        right: of the `n` questions, those whose most frequent answer is right.
    """

    votes: int
    n: int
    right: int


def agreements(result: EvaluationResult) -> list[Agreement]:
    """Calibration of maj@n: by how many samples agree, how often they are right. Questions without an answer have 0."""
    counts: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for grade in result.grades:
        chosen = majority(grade.answers)
        votes = 0 if chosen is None else grade.answers.count(chosen)
        counts[votes] += 1
        right[votes] += grade.majority_correct
    return [Agreement(votes, counts[votes], right[votes]) for votes in sorted(counts)]


def calibration_error(result: EvaluationResult) -> float:
    """Expected calibration error: mean over questions of |share of samples that agree − accuracy of such questions|."""
    n, samples = len(result.grades), result.samples
    return sum(abs(part.right - part.n * part.votes / samples) for part in agreements(result)) / n


def pass_at(result: EvaluationResult, k: int) -> tuple[float, tuple[float, float]]:
    """pass@k: mean over questions of the unbiased estimate (arXiv 2107.03374, eq. 1), and Wilson's 95% interval.

    The estimates of questions are shares, not single answers, so that the interval is conservative.

    Raises:
        ValueError: a question has fewer than k samples.
    """
    estimates = [pass_at_k(sum(grade.correct), len(grade.correct), k) for grade in result.grades]
    total, n = sum(estimates), len(estimates)
    return total / n, wilson(min(total, n), n)


def by_length(result: EvaluationResult) -> dict[str, Summary]:
    """Accuracy by words of the question; empty where lengths were not recorded."""
    if any(grade.words is None for grade in result.grades):
        return {}
    ends = [*LENGTHS, None]
    names = [f"{low} to {end - 1}" if end else f"{low} and more" for low, end in zip([0, *LENGTHS], ends, strict=True)]
    groups = _groups(result, lambda grade: sum(grade.words >= end for end in LENGTHS))  # type: ignore[operator]
    return {names[place]: groups[place] for place in sorted(groups)}


def by_trait(result: EvaluationResult) -> dict[str, dict[str, Summary]]:
    """Accuracy by each property that a set gives its questions (body system, subject), where it tells groups apart."""
    found: dict[str, dict[str, Summary]] = {}
    for name in sorted({name for grade in result.grades for name in grade.traits}):
        groups = _groups(result, lambda grade, name=name: grade.traits.get(name))
        if 2 <= len(groups) <= MOST_VALUES:
            found[name.replace("_", " ")] = dict(sorted(groups.items()))
    return found


def _groups(result: EvaluationResult, key: Callable[[Grade], object]) -> dict:
    groups: dict = {}
    for grade in result.grades:
        if (value := key(grade)) is not None:
            groups.setdefault(value, []).append(grade)
    return {value: summarize(grades, result.samples) for value, grades in groups.items()}


def breakdown(result: EvaluationResult) -> str:
    """All of it as Markdown; empty where there is nothing to tell apart."""
    parts = []
    levels = {f"L{level}": part for level, part in result.by_level.items()}
    for title, groups in (("level", levels), ("words", by_length(result)), *by_trait(result).items()):
        if len(groups) > 1:
            parts.append(_table(title, groups))
    if result.samples > 1:
        parts.append(_samples(result))
    return "\n".join(parts)


def _table(title: str, groups: dict[str, Summary]) -> str:
    rows = [[name, str(part.n), with_interval(part.accuracy, part.interval)] for name, part in groups.items()]
    return table_of([title, "n", "accuracy"], rows)


def _samples(result: EvaluationResult) -> str:
    """Calibration of the majority, where questions have equally many samples, and pass@k up to the fewest of any."""
    shown, counts = "", [len(grade.correct) for grade in result.grades]
    fewest = min(counts)
    if fewest == max(counts):
        rows = []
        for part in agreements(result):
            interval = wilson(part.right, part.n)
            rows.append(
                [f"{part.votes} of {result.samples}", str(part.n), with_interval(part.right / part.n, interval)]
            )
        shown = table_of(["samples that agree", "n", f"maj@{result.samples} right"], rows)
        shown += f"\nExpected calibration error of the majority: {percent(calibration_error(result))} points.\n\n"
    powers = sorted({*(2**i for i in range(12) if 2**i < fewest), fewest})
    return shown + table_of(["k", "pass@k"], [[str(k), with_interval(*pass_at(result, k))] for k in powers])
