"""Rows of a CSV file as spreadsheets and table tools write it: `,`, `;`, tab or `|` between cells of any length."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from alphamed_nemo.data.text_files import read_text

DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072, less than a long article
NAMED = "sep="  # Excel's first line where the delimiter is not the country's


def read_csv(file: Path) -> tuple[list[dict], list[int]]:
    """Rows by column name, and the line that each begins on, from 1. A row shorter than the header ends in None.

    Raises:
        ValueError: bad quoting, a column name twice, or a row with more cells than the header; names file and line.
    """
    text = read_text(file)
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        return _rows(file, text)
    finally:
        csv.field_size_limit(before)


def _rows(file: Path, text: str) -> tuple[list[dict], list[int]]:
    named, skipped = "", 0
    first = text.partition("\n")[0].strip()
    if first.casefold().startswith(NAMED) and len(first) == len(NAMED) + 1:
        named, skipped, text = first[-1], 1, text.partition("\n")[2]
    delimiter = named or _delimiter(text)
    records = _records(file, text, delimiter, skipped)
    _, header = next(records, (0, []))
    header = [name.strip() for name in header]
    names = [name for name in header if name]  # tables saved with their index have a column without a name
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{file}, line {skipped + 1}: the column {twice!r} is there twice; name each column once")
    rows, lines = [], []
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(header) :]):
            raise ValueError(
                f"{file}, line {line}: {len(cells)} cells for {len(header)} columns, at {delimiter!r}; put quotes "
                'around a cell that holds one, and double the quotes inside: "[""Iron"", ""Zinc""]"'
            )
        rows.append({name: cell for name, cell in zip_longest(header, cells[: len(header)]) if name})
        lines.append(line)
    return rows, lines


def _delimiter(text: str) -> str:
    """What divides the header into most columns; a comma where nothing does."""

    def columns(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))

    return max(DELIMITERS, key=columns)


def _records(file: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins on, cells) of each record. Strict: a quote that is never closed would swallow the rest."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = skipped + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{file}, line {line}: not CSV with {delimiter!r} between cells ({error})") from error
        if cells is None:
            return
        yield line, cells
