"""The medical bank: medical questions written for this project and shipped with it (`data.source=medical_bank`)."""

from __future__ import annotations

from pathlib import Path

from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.question import Question

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "medical_bank"
SPLITS = ("train", "heldout")


def medical_bank() -> tuple[list[Question], list[Question]]:
    """Training and held-out questions, all of them, in the order of their files.

    Raises:
        ValueError: a file is missing or holds a row that is no question; names file and row.
    """
    train, heldout = (read_questions(FOLDER / f"{split}.jsonl") for split in SPLITS)
    return train, heldout
