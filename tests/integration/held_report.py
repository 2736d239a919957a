"""The report recipe, which stands still at `report`: with the page written under its temporary name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.report import html
from recipes import report
from tests.integration.held import hold


@contextmanager
def held_file(path: Path) -> Iterator[Path]:
    with whole_file(path) as part:
        yield part
        hold("report", "report")


if __name__ == "__main__":
    html.whole_file = held_file
    report.main()
