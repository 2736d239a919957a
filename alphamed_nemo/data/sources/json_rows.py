"""Rows of a JSON file: JSON lines (whatever the suffix says: MedMCQA's .json files are), a list, or an object by id."""

from __future__ import annotations

from pathlib import Path

from alphamed_nemo.data.text_files import parse_json, read_text


def read_json(file: Path) -> tuple[list[dict], list[str]]:
    """Rows, and where each is: "line 3", "entry 3" of a list, or "key '123'" of an object, kept as `_key` too.

    Raises:
        ValueError: no JSON, or JSON of another form; names the file, and the line where there is one.
    """
    text = read_text(file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return [], []
    if not _is_row(lines[0][1], file):
        try:
            value = parse_json(text)
        except ValueError as error:
            if file.suffix.lower() == ".json":
                raise ValueError(f"{file}: neither JSON lines nor one JSON value ({error})") from error
        else:
            return _of_whole(file, value)
    rows = []
    for number, line in lines:
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: found {type(row).__name__}, expected a JSON object a line")
        rows.append(row)
    return rows, [f"line {number}" for number, _ in lines]


def _of_whole(file: Path, value: object) -> tuple[list[dict], list[str]]:
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return [{"_key": key, **row} for key, row in value.items()], [f"key {key!r}" for key in value]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value, [f"entry {number}" for number in range(1, len(value) + 1)]
    raise ValueError(
        f"{file}: found {type(value).__name__}, expected JSON objects: one a line, a list of them, or an object of "
        "them by id"
    )


def _is_row(line: str, file: Path) -> bool:
    """Whether a line is a whole JSON object that is a row, as in JSON lines."""
    try:
        value = parse_json(line)
    except ValueError:
        return False
    if file.suffix.lower() == ".jsonl":
        return isinstance(value, dict)
    return isinstance(value, dict) and not all(isinstance(item, dict) for item in value.values())
