"""Which numbers a setting may have: kept in its field's metadata, for the check, its error and docs/settings.md."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

RANGE = "range"  # in a field's metadata


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both allowed unless they are open.

    Attributes:
        low, high: infinite: no limit.
        above: the lowest value itself is not allowed.
        below: the highest value itself is not allowed.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and math.isfinite(value)

    def __str__(self) -> str:
        if not self.above and not self.below and math.isfinite(self.high):
            return f"{self.low} to {self.high}"
        parts = [f"{'above' if self.above else 'at least'} {self.low}"]
        if math.isfinite(self.high):
            parts.append(f"{'below' if self.below else 'at most'} {self.high}")
        return ", ".join(parts)


def ranged(
    default: Any, low: float, high: float = math.inf, *, above: bool = False, below: bool = False, because: str = ""
) -> Any:
    """A default, or the type of an empty one, with its range, and the reason for the default if it is an assumption."""
    metadata: dict[str, Any] = {RANGE: Range(low, high, above, below)}
    if because:
        metadata["because"] = because
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def positive(default: Any, because: str = "") -> Any:
    """A default of a setting that may be any number above 0."""
    return ranged(default, low=0, above=True, because=because)


def assumptions(group: Any, name: str) -> list[tuple[str, Any, str]]:
    """(setting, value, reason) of every assumption of a group of settings; the reason says so where it is not the
    default."""
    rows = []
    for item in fields(group):
        because = item.metadata.get("because")
        if because is not None:
            value = getattr(group, item.name)
            rows.append((f"{name}.{item.name}", value, because if value == item.default else "set for this plan"))
    return rows
