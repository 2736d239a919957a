"""The page of a suite: every set's accuracy, what changes of the questions did, breakdowns, published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.evaluation.breakdown import breakdown
from alphamed_nemo.evaluation.comparison import signed
from alphamed_nemo.evaluation.harness import write_harness
from alphamed_nemo.evaluation.published import COLUMNS, published_table
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.robustness import compare_changed
from alphamed_nemo.evaluation.suites import Task
from alphamed_nemo.evaluation.table_text import EMPTY, percent, table_of, with_interval

PAGE = "suite.md"
CHANGED = (
    "Change of accuracy in points, with Newcombe's 95% interval for pairs. Unchanged: questions that stay as they are, "
    "since an option speaks of others. Follows the letter: of the answers whose option got another letter, the share "
    "that keeps the letter instead of the option; a model that reads the options is near 0, one that answers by place "
    "or letter near 100."
)


def write_suite(
    folder: Path, label: str, suite: str, tasks: Sequence[Task], results: Mapping[str, EvaluationResult]
) -> str:
    """Writes `folder`/suite.md and the results in lm-evaluation-harness's form beside it.

    Args:
        results: by the name of a task; all of them.

    Returns:
        The table of all tasks.
    """
    harness = write_harness(folder, results)
    table = _accuracies(tasks, results)
    parts = [f"# {label}: suite {suite}\n", f"Accuracy in percent with Wilson's 95% interval.\n\n{table}"]
    if any(task.variant for task in tasks):
        parts.append(f"# Asked in another way\n\n{CHANGED}\n\n{robustness_table(tasks, results)}")
    for task in tasks:
        if not task.variant and (found := breakdown(results[task.name])):
            parts.append(f"# {task.name}: what accuracy depends on\n\n{found}")
    if any(task.dataset in COLUMNS for task in tasks):
        plain = [results[task.name] for task in tasks if not task.variant]
        parts.append(
            "# Beside published numbers\n\nTheir decoding, prompts and grading differ or are not known.\n\n"
            + published_table(plain)
        )
    parts.append(f"The same numbers for tools that read lm-evaluation-harness: `{harness.name}`.\n")
    write_text(folder / PAGE, "\n".join(parts))
    return table


def _accuracies(tasks: Sequence[Task], results: Mapping[str, EvaluationResult]) -> str:
    head = ["set", "n", "accuracy", "guessing", "majority", "unanswered", "truncated", "tokens"]
    rows = []
    for task in tasks:
        result = results[task.name]
        summary = result.summary
        rows.append(
            [
                task.name,
                f"{summary.n:,}",
                with_interval(summary.accuracy, summary.interval),
                percent(summary.guessing),
                percent(summary.majority) if summary.samples > 1 else EMPTY,
                percent(summary.unanswered),
                percent(result.truncated_ratio),
                EMPTY if result.mean_length is None else f"{result.mean_length:.0f}",
            ]
        )
    return table_of(head, rows)


def robustness_table(tasks: Sequence[Task], results: Mapping[str, EvaluationResult]) -> str:
    """One row for each way in which a set was asked besides its own; the plain row of the set stands before them."""
    head = ["set", "asked", "accuracy", "change", "unchanged", "follows the letter"]
    rows = []
    for task in tasks:
        result, plain = results[task.name], results[task.dataset]
        if task.variant:
            done = compare_changed(plain, result, task.plain, {question.id: question for question in task.questions})
            followed = f"{percent(done.by_letter / done.moved)} of {done.moved:,}" if done.moved else EMPTY
            unchanged = EMPTY if task.prompt else f"{done.unchanged:,}"
            cells = [percent(result.accuracy), signed(done.difference), unchanged, followed]
        else:
            cells = [percent(result.accuracy), EMPTY, EMPTY, EMPTY]
        rows.append([task.dataset, task.variant.replace("_", " ") or "as it is", *cells])
    return table_of(head, rows, texts=2)
