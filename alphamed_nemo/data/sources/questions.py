"""A user's own questions, one JSON object a line (or a row of a CSV or parquet file); docs/data.md has the form.

`question` (or `stem`), `options` (a list of texts, {"A": text, …} or [{"text": …}, …]), and the key as `answer` (its
letter, or its text), `answer_text` (its text), or both. Optional: `id`, `context`, `level`, `metadata`. The project's
own question files have this form too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.answer_key import habit_of, key_of
from alphamed_nemo.data.cells import Options, Unusable, level_of, metadata_of, options_of, paragraphs_of
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import Rows


class Questions(Loader):
    def __init__(self, name: str, source: SourceConfig, rows: Rows) -> None:
        self.stem = "stem" if "stem" in rows.rows[0] else "question"
        self.required = (self.stem, "options")
        super().__init__(name, source, rows)
        self.habit = habit_of(_answered(rows))

    def question(self, row: dict) -> Question:
        options = options_of(row["options"])
        answer = key_of(row.get("answer"), options, row.get("answer_text"), self.habit)
        level, metadata = level_of(row.get("level")), metadata_of(row.get("metadata"))
        question = self.build(
            row[self.stem], options.texts, answer, id=row.get("id"), context=paragraphs_of(row.get("context"))
        )
        return replace(question, level=level, metadata=metadata)


def _answered(rows: Rows) -> Iterator[tuple[object, Options]]:
    """Answer and options of every row whose options can be read."""
    for row in rows.rows:
        try:
            yield row.get("answer"), options_of(row.get("options"))
        except Unusable:
            continue
