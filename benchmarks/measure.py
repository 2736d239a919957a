"""What a benchmark row is, and how rows become a table and a file."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil

from alphamed_nemo.processor import this_processor
from alphamed_nemo.provenance import versions


@dataclass
class Row:
    """One measured figure.

    Attributes:
        name: what was measured.
        unit: of the values.
        values: each repetition's.
        target: what it should be, in words; empty where nothing is asked.
        note: what a reader has to know.
    """

    name: str
    unit: str
    values: list[float]
    target: str = ""
    note: str = ""
    median: float = field(init=False)

    def __post_init__(self) -> None:
        self.median = median(self.values)

    def line(self) -> str:
        spread = f"{_number(min(self.values))} to {_number(max(self.values))}" if len(self.values) > 1 else ""
        cells = (self.name, _number(self.median), self.unit, spread, str(len(self.values)), self.target, self.note)
        return f"| {' | '.join(cells)} |"


HEAD = "| row | median | unit | spread | n | target | note |\n| --- | ---: | --- | --- | ---: | --- | --- |"


def _number(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def table(rows: list[Row]) -> str:
    return "\n".join([HEAD, *(row.line() for row in rows)]) + "\n"


def machine() -> dict[str, str | int | float | list[str]]:
    """What a figure depends on beside the code. The limits are variables that take instructions away from torch."""
    processor = this_processor()
    return {
        "cpu": processor.model,
        "cores": processor.cores,
        "instructions": list(processor.instructions),
        "limits": list(processor.limits),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": os.getloadavg()[0],
    }


def write(rows: list[Row], about: dict, folder: Path) -> Path:
    """`<date>.json` and `<date>.md` in `folder`; a second run of a day gets the hour as well."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = folder / f"{now:%Y-%m-%d}.json"
    if path.exists():
        path = folder / f"{now:%Y-%m-%d-%H%M}.json"
    record = about | {"versions": versions(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(rows))
    return path
