"""The page of a suite: a row for every set, what changes of the questions did, breakdowns, published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.evaluation.comparison import signed
from alphamed_nemo.evaluation.harness import write_harness
from alphamed_nemo.evaluation.published import COLUMNS, published_table
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.robustness import compare_changed
from alphamed_nemo.evaluation.suite_breakdown import suite_breakdown
from alphamed_nemo.evaluation.suites import Task
from alphamed_nemo.evaluation.table_text import EMPTY, percent, table_of, with_interval

PAGE = "suite.md"
ASKED = {"temperature": "temperature {}", "prompt": "prompt {}", "max_new_tokens": "at most {} tokens"}
ACCURACY = (
    "Accuracy, guessing, majority of the samples, unanswered and truncated responses in percent; accuracy with "
    "Wilson's 95% interval. Tokens: mean per response."
)
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
        The tables of all sets and, where there are some, of all changes.
    """
    harness = write_harness(folder, results)
    plain = {task.name: results[task.name] for task in tasks if not task.variant}
    tables = [_accuracies(plain)]
    parts = [f"# {label}: suite {suite}\n", f"{_asked(next(iter(plain.values())))}\n", f"{ACCURACY}\n\n{tables[0]}"]
    if any(task.variant for task in tasks):
        tables.append(robustness_table(tasks, results))
        parts.append(f"## Asked in another way\n\n{CHANGED}\n\n{tables[1]}")
    parts.append(suite_breakdown(plain))
    if any(name in COLUMNS for name in plain):
        parts.append(
            "## Beside published numbers\n\nTheir decoding, prompts and grading differ or are not known.\n\n"
            + published_table(list(plain.values()))
        )
    parts.append(f"The same numbers for tools that read lm-evaluation-harness: `{harness.name}`.\n")
    write_text(folder / PAGE, "\n".join(part for part in parts if part))
    return "\n".join(tables)


def _asked(result: EvaluationResult) -> str:
    """How the suite was asked, from the settings of one of its sets."""
    settings = result.settings
    shown = [f"Model `{settings['model']}`", f"protocol {settings['protocol']}"]
    shown.append(f"{result.samples} {'samples' if result.samples > 1 else 'sample'} per question")
    shown += [words.format(settings[key]) for key, words in ASKED.items() if settings.get(key) not in (None, "")]
    return ", ".join([*shown, result.date] if result.date else shown) + "."


def _accuracies(results: Mapping[str, EvaluationResult]) -> str:
    """One row for each set, and the mean of their accuracies where there are several."""
    head = ["set", "n", "accuracy", "guessing", "majority", "unanswered", "truncated", "tokens"]
    rows = []
    for name, result in results.items():
        summary = result.summary
        rows.append(
            [
                name,
                f"{summary.n:,}",
                with_interval(summary.accuracy, summary.interval),
                percent(summary.guessing),
                percent(summary.majority) if summary.samples > 1 else EMPTY,
                percent(summary.unanswered),
                percent(result.truncated_ratio),
                EMPTY if result.mean_length is None else f"{result.mean_length:.0f}",
            ]
        )
    if len(results) > 1:
        mean = sum(result.accuracy for result in results.values()) / len(results)
        rows.append(["mean of the sets", EMPTY, percent(mean), *[EMPTY] * 5])
    return table_of(head, rows)


def robustness_table(tasks: Sequence[Task], results: Mapping[str, EvaluationResult]) -> str:
    """One row for each way in which a set was asked besides its own; the plain row of the set stands before them."""
    head = ["set", "asked", "accuracy", "change", "unchanged", "follows the letter", "unanswered"]
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
        cells.append(percent(result.summary.unanswered))
        rows.append([task.dataset, task.variant.replace("_", " ") or "as it is", *cells])
    return table_of(head, rows, texts=2)
