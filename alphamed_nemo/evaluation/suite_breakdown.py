"""What the accuracy of a suite's sets depends on: one table for each question, one row for each set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from alphamed_nemo.evaluation.breakdown import agreements, by_length, by_trait, calibration_error, pass_at
from alphamed_nemo.evaluation.result import EvaluationResult, Summary
from alphamed_nemo.evaluation.stats import wilson
from alphamed_nemo.evaluation.table_text import EMPTY, percent, table_of, with_interval

Cells = Mapping[str, str]  # column → cell
CELLS = "Accuracy in percent with Wilson's 95% interval, and in parentheses the number of questions."


def suite_breakdown(results: Mapping[str, EvaluationResult]) -> str:
    """Sections of Markdown; empty where there is nothing to tell apart.

    Args:
        results: of the sets as they are, by name.
    """
    parts = [
        _section("By level", CELLS, results, lambda result: _cells({f"L{n}": p for n, p in result.by_level.items()})),
        _section(
            "By words of the question, with context and options",
            CELLS,
            results,
            lambda result: _cells(by_length(result)),
        ),
        _traits(results),
        _section(
            "By agreement of the samples",
            "How often the most frequent answer is right, by how many samples give it. Calibration error: mean "
            "distance of the share that agrees from that accuracy, in points.",
            results,
            _agreement,
        ),
        _section("pass@k", "Unbiased, in percent, with Wilson's 95% interval.", results, _powers),
    ]
    return "\n".join(part for part in parts if part)


def _section(
    title: str, text: str, results: Mapping[str, EvaluationResult], cells_of: Callable[[EvaluationResult], Cells]
) -> str:
    """A table with all columns that a set has; empty where none has two."""
    rows = {name: cells for name, result in results.items() if len(cells := cells_of(result)) > 1}
    if not rows:
        return ""
    columns = sorted({column for cells in rows.values() for column in cells}, key=_place)
    table = table_of(
        ["set", *columns], [[name, *(cells.get(column, EMPTY) for column in columns)] for name, cells in rows.items()]
    )
    return f"## {title}\n\n{text}\n\n{table}"


def _place(column: str) -> tuple[bool, int]:
    """Columns that begin with a number, in its order; others last."""
    number = column.lstrip("L").split()[0]
    return (not number.isdigit(), int(number) if number.isdigit() else 0)


def _cells(groups: Mapping[str, Summary]) -> Cells:
    return {name: f"{with_interval(part.accuracy, part.interval)} ({part.n:,})" for name, part in groups.items()}


def _traits(results: Mapping[str, EvaluationResult]) -> str:
    """A table for each property that sets give their questions: their values differ, so each has a row."""
    rows: dict[str, list[list[str]]] = {}
    for name, result in results.items():
        for trait, groups in by_trait(result).items():
            rows.setdefault(trait, []).extend(
                [name, value, f"{part.n:,}", with_interval(part.accuracy, part.interval)]
                for value, part in groups.items()
            )
    return "\n".join(
        f"## By {trait}\n\n{table_of(['set', trait, 'n', 'accuracy'], cells, texts=2)}" for trait, cells in rows.items()
    )


def _agreement(result: EvaluationResult) -> Cells:
    """Empty for one sample, or unequal numbers of them."""
    if result.samples < 2 or len({len(grade.correct) for grade in result.grades}) > 1:
        return {}
    cells = {
        f"{part.votes} of {result.samples}": (
            f"{with_interval(part.right / part.n, wilson(part.right, part.n))} ({part.n:,})"
        )
        for part in agreements(result)
    }
    return cells | {"calibration error": percent(calibration_error(result))}


def _powers(result: EvaluationResult) -> Cells:
    fewest = min(len(grade.correct) for grade in result.grades)
    powers = sorted({*(2**i for i in range(12) if 2**i < fewest), fewest})
    return {f"{k}": with_interval(*pass_at(result, k)) for k in powers}
