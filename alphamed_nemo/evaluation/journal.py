"""A file that grows by one row per question, so that a killed run loses nothing that was finished.

The first line holds the settings; a journal is continued only under the same ones. A row is written in one piece and
handed to the operating system at once, so it outlives the process; a row cut short by the kill is dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.config.private import owner_only
from alphamed_nemo.data.question import Question
from alphamed_nemo.provenance import NAME as PROVENANCE

log = logging.getLogger(__name__)

_AS_WRITTEN = json.JSONEncoder(sort_keys=True, default=str, check_circular=False)
SAMPLE_BYTES = 2**16  # read from each end of a weight file; training moves every tensor, so this tells weights apart


class Journal:
    """Rows by question id, on disk.

    Attributes:
        rows: question id → row, those of an earlier run included.
    """

    def __init__(self, path: Path, settings: dict) -> None:
        """Opens or continues the journal at `path`.

        Raises:
            ValueError: it was begun under other settings, or a line before the last is damaged.
        """
        self.path = Path(path)
        self.rows: dict[str, dict] = {}
        settings = json.loads(json.dumps(settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._read(settings)
        with writing(self.path):
            self._file = open(self.path, "ab", opener=owner_only)
            self._file.truncate(kept)
        if kept == 0:
            self._write({"settings": settings})
        elif self.rows:
            log.info("%s: continuing after %d questions", self.path, len(self.rows))

    def append(self, row: dict) -> None:
        """Adds the row of the question `row["id"]`."""
        if row["id"] in self.rows:
            raise ValueError(f"{self.path}: question {row['id']!r} is there already")
        self._write(row)
        self.rows[row["id"]] = row

    def close(self) -> None:
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, row: dict) -> None:
        with writing(self.path):
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            self._file.flush()

    def _read(self, settings: dict) -> int:
        """Reads what is there; bytes up to the end of its last complete line."""
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        kept = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:kept].split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, line {number}: damaged ({error}); delete the file to start again"
                ) from error
            if number == 1:
                _check_settings(self.path, row.get("settings", {}), settings)
            else:
                self.rows[row["id"]] = row
        return kept


def _check_settings(path: Path, found: dict, expected: dict) -> None:
    different = [key for key in expected.keys() | found.keys() if found.get(key) != expected.get(key)]
    if different:
        key = min(different)
        raise ValueError(
            f"{path} was begun with {key}={found.get(key)!r}, now it is {expected.get(key)!r}; "
            "use the same settings, or delete that file to start again"
        )


def questions_identity(questions: Iterable[Question]) -> str:
    """A short hash of questions in their order."""
    text = _AS_WRITTEN.encode([vars(question) for question in questions])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_identity(path: str | Path) -> str:
    """A short hash of a Hugging Face folder's weights, config, tokenizer and chat template; the path if it is none.

    A release's provenance.json, which says when it was made, is no part of it.
    """
    folder = Path(path)
    if not str(path) or not folder.is_dir():
        return str(path)
    digest = hashlib.sha256()
    for file in (file for suffix in ("safetensors", "json", "jinja") for file in sorted(folder.glob(f"*.{suffix}"))):
        if file.name == PROVENANCE:
            continue
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            digest.update(content.read(SAMPLE_BYTES))
            content.seek(max(0, file.stat().st_size - SAMPLE_BYTES))
            digest.update(content.read())
    return digest.hexdigest()[:16]
