r"""A data set of one's own: question sheets with the options in columns and the key as a number from 1.

    ./run prepare_data data.source=sources +sources.train.sheets.set=examples/exam_sheets.py:ExamSheets \
        +sources.train.sheets.path=examples/exam_sheets.csv

A loader says which columns tell its schema, and how one row becomes a question. Files and the hub are read for it, rows
that make no question are set aside with their reason, and deduplication, decontamination and statistics follow.
"""

from __future__ import annotations

from alphamed_nemo.data.cells import Unusable
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader


class ExamSheets(Loader):
    """Columns: text, choice_1 to choice_n (empty ones are left out), correct, and perhaps number and chapter."""

    required = ("text", "choice_1", "choice_2", "correct")

    def question(self, row: dict) -> Question | None:
        """None for chapters that `sources.*.*.categories` does not ask for."""
        if self.source.categories and row.get("chapter") not in self.source.categories:
            return None
        columns = sorted((name for name in row if name.startswith("choice_")), key=lambda name: int(name[7:]))
        options = [row[name] for name in columns if row[name]]
        if not str(row["correct"]).isdecimal() or not 1 <= int(row["correct"]) <= len(options):
            raise Unusable("key is no choice", f"found {row['correct']!r}, expected 1 to {len(options)}")
        key = LETTERS[int(row["correct"]) - 1]
        return self.build(row["text"], options, key, id=row.get("number"), chapter=row.get("chapter"))
