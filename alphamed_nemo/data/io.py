"""Question files: JSON lines or parquet, by suffix.

A row has the fields of `Question`; only `id`, `stem`, `options` and `answer` are required. In parquet `metadata` is a
JSON string, because its keys differ from row to row. Files that others wrote may give `options` and `answer` in any
form that has one meaning (`cells.py`, `answer_key.py`); the rest is refused with file and row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.data.answer_key import key_of
from alphamed_nemo.data.cells import Options, Unusable, level_of, metadata_of, options_of, paragraphs_of, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.text_files import parse_json, read_text

REQUIRED = ("id", "stem", "options", "answer")
_FIELDS = {field.name for field in fields(Question)}


def read_questions(path: str | Path) -> list[Question]:
    """Questions of a file, in file order.

    Raises:
        ValueError: the file is missing, of an unknown suffix, or holds a row that is no question, or an id twice; the
            message names the file and the row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such question file")
    questions, seen = [], set()
    for number, row in _rows(path):
        question = _question(row, path, number)
        if question.id in seen:
            raise ValueError(f"{path}, row {number}: id {question.id!r} occurs twice")
        seen.add(question.id)
        questions.append(question)
    return questions


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write a question file; it appears under its name only when it is complete.

    Raises:
        ValueError: unknown suffix.
    """
    path = Path(path)
    _check_suffix(path)
    rows = [asdict(question) | {"options": list(question.options)} for question in questions]
    if path.suffix == ".jsonl":
        with whole_file(path) as part:
            part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema(
            [(name, pyarrow.string()) for name in ("id", "dataset", "stem")]
            + [("options", pyarrow.list_(pyarrow.string())), ("answer", pyarrow.string())]
            + [("context", pyarrow.string()), ("level", pyarrow.int32()), ("metadata", pyarrow.string())]
        )
        rows = [row | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in rows]
        with whole_file(path) as part:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), part)


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: a question file ends in .jsonl or .parquet, not in {path.suffix or 'nothing'!r}")


def _rows(path: Path) -> list[tuple[int, object]]:
    """(row number from 1, parsed row) of a file."""
    _check_suffix(path)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1))
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a parquet file ({error})") from error
    parsed = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # texts may hold U+2028
        if not line.strip():
            continue
        try:
            parsed.append((number, parse_json(line)))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: not JSON ({error})") from error
    return parsed


def _question(row: object, path: Path, number: int) -> Question:
    """One row as a question."""
    if not isinstance(row, dict):
        raise ValueError(
            f"{path}, row {number}: found {type(row).__name__}, expected an object with {', '.join(REQUIRED)}"
        )
    missing = [name for name in REQUIRED if row.get(name) is None or row[name] != row[name]]
    unknown = sorted(set(row) - _FIELDS)
    if missing or unknown:
        raise ValueError(
            f"{path}, row {number}: missing {', '.join(missing) or 'nothing'}; "
            f"unknown {', '.join(unknown) or 'nothing'}; the fields are {', '.join(sorted(_FIELDS))}"
        )
    try:
        asks_value = isinstance(row["options"], list) and not row["options"]
        options = Options(()) if asks_value else options_of(row["options"])
        return Question(
            id=text(row["id"], "id"),
            dataset=text(row.get("dataset"), "dataset") or path.stem,
            stem=text(row["stem"], "stem"),
            options=options.texts,
            answer=text(row["answer"], "answer") if asks_value else _letter(row["answer"], options),
            context=paragraphs_of(row.get("context")),
            level=level_of(row.get("level")),
            metadata=metadata_of(row.get("metadata")),
        )
    except (ValueError, Unusable) as error:
        raise ValueError(f"{path}, row {number}: {error}") from error


def _letter(given: object, options: Options) -> str:
    """A capital letter as it stands, for `Question` to check; anything else that names one option by its letter."""
    return given if isinstance(given, str) and given and given in LETTERS else key_of(given, options)
