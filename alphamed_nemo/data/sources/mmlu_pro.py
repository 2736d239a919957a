"""MMLU-Pro's medical part (Wang et al., 2024, arXiv 2406.01574): categories health (818) and biology (717).

3 to 10 options. `answer` is the letter and `answer_index` counts from 0; both must agree.
"""

from __future__ import annotations

from alphamed_nemo.data.cells import Unusable, options_of, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet

CATEGORIES = ("health", "biology")


class MMLUPro(Loader):
    hub = HubSet("TIGER-Lab/MMLU-Pro", train_split="validation")
    required = ("question", "options", "category")

    def question(self, row: dict) -> Question | None:
        if row["category"] not in (self.source.categories or CATEGORIES):
            return None
        answer, index = text(row.get("answer"), "answer"), text(row.get("answer_index"), "answer_index")
        index = index.removesuffix(".0")  # CSV tools turn a column with gaps into floats
        if answer and index and index != str(LETTERS.find(answer)):
            raise Unusable("letter and index of the answer disagree", f"{answer} and {index}")
        return self.build(
            row["question"],
            options_of(row["options"]).texts,
            answer,
            id=row.get("question_id"),
            category=row["category"],
            source=row.get("src"),
        )
