"""GPQA's medical part (Rein et al., 2023, arXiv 2311.12022): the 78 biology questions of the main set.

The answer and three distractors are columns of their own, so the order of the options is ours. It follows from a
hash of seed, question and option, not from the rows read before: the same question has the same key in every run and
in every subset.
"""

from __future__ import annotations

import hashlib

from alphamed_nemo.data.cells import Unusable, text
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.data.sources.base import Loader, content_hash
from alphamed_nemo.data.sources.rows import HubSet

DOMAINS = ("Biology",)
ANSWER = "Correct Answer"
DISTRACTORS = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQA(Loader):
    hub = HubSet("Idavidrein/gpqa", subset="gpqa_main", evaluation_split="train")
    required = ("Question", ANSWER, *DISTRACTORS, "High-level domain")

    def question(self, row: dict) -> Question | None:
        if text(row["High-level domain"]) not in (self.source.categories or DOMAINS):
            return None
        stem, answer = text(row["Question"]), text(row[ANSWER])
        if not answer:
            raise Unusable("no answer")
        texts = [answer, *(text(row[column]) for column in DISTRACTORS)]
        options = shuffled(texts, f"{self.source.option_seed}\x1f{stem}")
        return self.build(
            stem,
            options,
            LETTERS[options.index(answer)],
            id=text(row.get("Record ID")) or content_hash(stem, *sorted(texts)),
            subdomain=row.get("Subdomain"),
        )


def shuffled(options: list[str], seed: str) -> list[str]:
    """Options in an order that depends on the seed and their texts alone."""
    return sorted(options, key=lambda option: hashlib.sha256(f"{seed}\x1f{option}".encode()).digest())
