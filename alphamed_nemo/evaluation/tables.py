"""The tables of a run's evaluations, as one Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.evaluation.breakdown import breakdown
from alphamed_nemo.evaluation.comparison import comparison_table
from alphamed_nemo.evaluation.published import COLUMNS, published_table
from alphamed_nemo.evaluation.result import EvaluationResult, markdown_table
from alphamed_nemo.evaluation.table_text import percent

COMPARISON = (
    "Differences from the first model, in points with Newcombe's 95% interval for pairs; p by McNemar's exact test, "
    "and corrected for all tests of the table by Holm's method. Tokens per answer count those of unanswered responses "
    "too."
)


def write_tables(folder: Path, result: EvaluationResult, earlier: Sequence[EvaluationResult] = ()) -> str:
    """Writes `folder`/tables.md: every result in the folder, paired comparisons, and published numbers beside ours.

    Args:
        folder: a run's eval folder.
        result: the newest result.
        earlier: results that it is compared with, on the same questions.

    Returns:
        The table of the results.

    Raises:
        ValueError: a result in `earlier` is of other questions.
    """
    results = [EvaluationResult.read(path) for path in sorted(folder.glob("*.json"))]
    table = markdown_table(results)
    parts = ["# Results\n", f"Accuracy in percent with Wilson's 95% interval.\n\n{table}"]
    if earlier:
        lines = "\n".join(f"- {comparison_line(result, other)}" for other in earlier)
        parts.append(f"# Paired comparisons\n\nMcNemar's exact test on the same questions.\n\n{lines}\n")
        parts.append(f"{COMPARISON}\n\n{comparison_table([earlier[0], *earlier[1:], result])}")
    for own in results:
        if found := breakdown(own):
            parts.append(f"# {own.label}: what accuracy depends on\n\n{found}")
    if any(name in COLUMNS for own in results for name in own.by_dataset):
        parts.append(
            "# Beside published numbers\n\nTheir decoding, prompts and grading differ or are not known.\n\n"
            + published_table(results)
        )
    write_text(folder / "tables.md", "\n".join(parts))
    return table


def write_comparison(folder: Path, results: Sequence[EvaluationResult]) -> str:
    """Writes `folder`/comparison.md: every result beside the first of them.

    Returns:
        The table.

    Raises:
        ValueError: there are fewer than two results, or two of other questions.
    """
    if len(results) < 2:
        raise ValueError(f"evaluate.compare: found {len(results)} result, expected at least two")
    table = comparison_table(results)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.md", f"# Comparison\n\n{COMPARISON}\n\n{table}")
    return table


def comparison_line(result: EvaluationResult, other: EvaluationResult) -> str:
    """One sentence: both accuracies, the questions that only one got right, and the p-value.

    Raises:
        ValueError: the questions differ.
    """
    test = result.compare(other)
    return (
        f"{result.label} {percent(result.accuracy)}% against {other.label} {percent(other.accuracy)}%: "
        f"{test.only_first} questions only {result.label} has right, {test.only_second} only {other.label} "
        f"(p = {test.p:.2g})"
    )
