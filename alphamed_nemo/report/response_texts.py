"""The texts of the page of responses, in script files of about a megabyte that the page loads as they are needed.

A page that is opened from a disk may load scripts, and nothing else. What is in them came from a model and may be
anything: it is data to the page, and cannot end the script that carries it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_table import read_table

CHUNK = 1_000_000  # bytes of a file, about
LONGEST = 40_000  # characters of a response that are shown: half from its beginning, half from its end
COLUMNS = ("group", "question_id", "text", "answer", "parts", "reward", "shaped_reward", "advantage")
_ESCAPED = re.compile("[<\u2028\u2029\ud800-\udfff]")  # </script>, <!--, ends of lines, halves of characters


class TextFiles:
    """Writes chunks until a limit is reached.

    Args:
        folder: where they go, as chunk_<build>_<n>.js.
        build: names the page that they belong to.
        questions: those whose text is known, by id.
        limit: bytes of all chunks together.

    Attributes:
        chunks: (first response, how many) of each, in the order of their numbers.
        bytes: of all chunks so far.
        full: the limit is reached, and some responses are left out.
    """

    def __init__(self, folder: Path, build: str, questions: Mapping[str, Question], limit: int) -> None:
        self.folder, self.build, self.questions, self.limit = folder, build, questions, limit
        self.chunks: list[tuple[int, int]] = []
        self.bytes = 0
        self.full = False

    def add(self, path: Path, first: int) -> None:
        """Writes the texts of one step, whole groups, as many as there is room for.

        Args:
            path: the step's file.
            first: number of its first response.

        Raises:
            ValueError: the file cannot be read; names it.
            OSError: the disk refuses; names the file.
        """
        waiting: list[str] = []
        size, rows = 0, 0
        for text, count in self._groups(path):
            more = len(text.encode())
            if self.bytes + size + more > self.limit:
                self.full = True
                break
            if waiting and size + more > CHUNK:
                self._write(waiting, first, rows)
                waiting, size, first, rows = [], 0, first + rows, 0
            waiting.append(text)
            size, rows = size + more, rows + count
        if waiting:
            self._write(waiting, first, rows)

    def _groups(self, path: Path) -> Iterator[tuple[str, int]]:
        """Each group as JSON, and how many responses it has."""
        table = read_table(path, COLUMNS)[0]
        for batch in table.to_batches(max_chunksize=4096):
            for (_, id), members in groupby(batch.to_pylist(), key=lambda row: (row["group"], row["question_id"])):
                rows = [_response(row) for row in members]
                group = {"question": _question(self.questions.get(id)), "responses": rows}
                yield script_json(group), len(rows)

    def _write(self, groups: list[str], first: int, rows: int) -> None:
        number = len(self.chunks)
        text = f"alphamedChunk({json.dumps(self.build)},{number},[\n" + ",\n".join(groups) + "\n]);\n"
        write_script(self.folder / f"chunk_{self.build}_{number}.js", text)
        self.chunks.append((first, rows))
        self.bytes += len(text.encode())


def script_json(value: Any) -> str:
    """JSON that a script may hold, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_script(path: Path, text: str) -> None:
    """Raises: OSError: the disk refuses; names the file."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _response(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {"text": _cut(row["text"]), "answer": row["answer"], "advantage": round(row["advantage"], 3)}
    if parts := json.loads(row["parts"]):
        found["parts"] = list(parts.items())  # pairs: a name may be one that objects of a script have already
    if row["shaped_reward"] != row["reward"]:
        found["shaped"] = round(row["shaped_reward"], 4)
    return found


def _cut(text: str) -> str | list[str | int]:
    """The text; of a long one its beginning, how many characters are left out, and its end."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return [text[:half], len(text) - 2 * half, text[-half:]]


def _question(question: Question | None) -> dict[str, Any] | None:
    if question is None:
        return None
    return {
        "dataset": question.dataset,
        "context": question.context,
        "stem": question.stem,
        "options": question.shown,
        "key": question.answer,
    }
