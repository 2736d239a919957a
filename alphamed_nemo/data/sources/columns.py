"""Sets whose rows give question, options and key in columns of their own: a subclass names the columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphamed_nemo.data.answer_key import letter_of
from alphamed_nemo.data.cells import Unusable, options_of, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader


class ColumnLoader(Loader):
    """Every key that a row has is read, and all of them must agree.

    Attributes:
        stem: column of the question.
        options: column of all options, or a column for each of them.
        letter, number, answer_text: columns of the key: a letter, a number that counts from `base`, an option's text.
        id: column of the source's own id; a hash of the question where there is none.
        kept: metadata name → column.
    """

    stem = "question"
    options: str | tuple[str, ...] = "options"
    letter = ""
    number = ""
    base = 0
    answer_text = ""
    id = ""
    kept: Mapping[str, str] = {}

    def question(self, row: dict) -> Question | None:
        options = self.options_of_row(row)
        keys = {self._letter(row), self._counted(row, len(options)), letter_of(row.get(self.answer_text), options)}
        keys.discard("")
        if len(keys) > 1:
            raise Unusable("letter and text of the answer disagree", " and ".join(sorted(keys)))
        metadata: dict[str, Any] = {name: row.get(column) for name, column in self.kept.items()}
        answer = keys.pop() if keys else ""
        return self.build(self.stem_of_row(row, options), options, answer, id=row.get(self.id), **metadata)

    def stem_of_row(self, row: dict, options: tuple[str, ...]) -> str:
        return text(row[self.stem], self.stem)

    def options_of_row(self, row: dict) -> tuple[str, ...]:
        if isinstance(self.options, str):
            return options_of(row[self.options]).texts
        return options_of([row.get(column) for column in self.options]).texts

    def _letter(self, row: dict) -> str:
        return text(row.get(self.letter), self.letter).upper()

    def _counted(self, row: dict, options: int) -> str:
        shown = text(row.get(self.number), self.number).removesuffix(".0")  # how CSV tools write a column with gaps
        if not shown:
            return ""
        place = int(shown) - self.base if shown.lstrip("-").isdigit() else -1
        if not 0 <= place < options:
            raise Unusable("answer not among the options", f"{self.number} {shown!r}, counted from {self.base}")
        return LETTERS[place]
