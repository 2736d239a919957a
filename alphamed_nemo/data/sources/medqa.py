"""MedQA (Jin et al., 2020, arXiv 2009.13081): questions of the US medical licensing examination.

The authors' files (`US/4_options/phrases_no_exclude_*.jsonl`, and the five-option `US/*.jsonl`) and the hub's
`GBaker/MedQA-USMLE-4-options` have the same columns: `question`, `options` {A: …}, `answer_idx` (the letter),
`answer` (its text).
"""

from __future__ import annotations

from alphamed_nemo.data.answer_key import letter_of
from alphamed_nemo.data.cells import Unusable, options_of, text
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet


class MedQA(Loader):
    hub = HubSet("GBaker/MedQA-USMLE-4-options")
    required = ("question", "options", "answer_idx")

    def question(self, row: dict) -> Question:
        options = options_of(row["options"]).texts
        answer = text(row.get("answer_idx"), "answer_idx")
        by_text = letter_of(row.get("answer"), options)
        if answer and by_text and by_text != answer:
            raise Unusable("letter and text of the answer disagree", f"{answer} and {row['answer']}")
        return self.build(row["question"], options, answer, step=row.get("meta_info"))
