"""MedXpertQA Text (Zuo et al., 2025, arXiv 2501.18362): expert-level questions with ten options.

The authors' files give `options` as a list of {letter, content} and `label` as a list; the hub's
`TsinghuaC3I/MedXpertQA` (subset Text) gives {A: …} and a letter. Both repeat the options at the end of the question
text, after "Answer Choices:"; they are taken off there, once they are seen to be the same options. Its two halves,
Reasoning and Understanding, are read by `where: {question_type: [Reasoning]}`.
"""

from __future__ import annotations

from collections.abc import Sequence

from alphamed_nemo.data.cells import Unusable, options_of, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader
from alphamed_nemo.data.sources.rows import HubSet

MARKER = "Answer Choices:"


class MedXpertQA(Loader):
    hub = HubSet("TsinghuaC3I/MedXpertQA", subset="Text", train_split="dev")
    required = ("question", "options", "label")

    def question(self, row: dict) -> Question:
        options = options_of(row["options"]).texts
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        if len(labels) > 1:
            raise Unusable("more than one answer", ", ".join(map(str, labels)))
        return self.build(
            without_options(text(row["question"], "question"), options),
            options,
            text(labels[0], "label") if labels else "",
            id=row.get("id"),
            task=row.get("medical_task"),
            body_system=row.get("body_system"),
            question_type=row.get("question_type"),
        )


def without_options(question: str, options: Sequence[str]) -> str:
    """The question text without the options repeated at its end. Raises: Unusable: those are not its options."""
    stem, marker, tail = question.rpartition(MARKER)
    if not marker:
        return question
    repeated = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    if tail.split() != repeated.split():
        raise Unusable("options in the text are not those of the row", tail.strip())
    return stem
