"""What the suites of a run say, for its model card and its report: the sets as they are, one result for each suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alphamed_nemo.evaluation.harness import NAME as HARNESS
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.suite_page import PAGE


def read_suites(evaluations: Path) -> list[EvaluationResult]:
    """The complete suites below an eval folder, each as one result that names its suite in settings and label.

    Changed questions and other forms of the prompt stay on the suite's own page.

    Raises:
        ValueError: a file in the folder of a suite is no evaluation.
    """
    suites = []
    for page in sorted(evaluations.glob(f"*/{PAGE}")):  # written last
        files = [path for path in sorted(page.parent.glob("*.json")) if not path.match(HARNESS)]
        sets = [result for path in files if set((result := EvaluationResult.read(path)).by_dataset) == {path.stem}]
        if sets:
            suites.append(_joined(sets, page.parent.name.rpartition("-")[2]))
    return suites


def _joined(results: Sequence[EvaluationResult], suite: str) -> EvaluationResult:
    """All questions of results that were asked in the same way."""
    first = results[0]
    questions = " ".join(str(result.settings["questions"]) for result in results)
    return EvaluationResult(
        label=f"{first.label}, suite {suite}",
        settings=first.settings | {"questions": questions, "suite": suite},
        grades=[grade for result in results for grade in result.grades],
        rows={id: row for result in results for id, row in result.rows.items()},
        reasoned_ratio=_mean([(result.reasoned_ratio, result) for result in results]),
        mean_length=_mean([(result.mean_length, result) for result in results]),
        truncated_ratio=_mean([(result.truncated_ratio, result) for result in results]),
        date=max(result.date for result in results),
    )


def _mean(values: Sequence[tuple[float | None, EvaluationResult]]) -> float | None:
    """The mean over responses of means over the responses of each result; None where one is not known."""
    total = weight = 0.0
    for value, result in values:
        if value is None:
            return None
        total += value * result.summary.responses
        weight += result.summary.responses
    return total / weight
