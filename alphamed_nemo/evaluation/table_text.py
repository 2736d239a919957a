"""How numbers are written in the Markdown tables of evaluations."""

from __future__ import annotations

from collections.abc import Sequence

EMPTY = "–"  # a number that is not there


def percent(value: float | None, digits: int = 1) -> str:
    return EMPTY if value is None else f"{100 * value:.{digits}f}"


def with_interval(share: float, interval: tuple[float, float]) -> str:
    """In percent: "76.2 [73.8, 78.5]"."""
    low, high = interval
    return f"{percent(share)} [{percent(low)}, {percent(high)}]"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Rows of cells as they are; the first `texts` columns to the left, the numbers after them to the right."""
    aligned = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, aligned, *rows))
