"""The order in which training questions are asked: seeded, endless, and resumable to the question."""

from __future__ import annotations

import random
from collections import deque

from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.group import Group


class QuestionStream:
    """Endless passes over the questions, each pass in a new order that depends on the seed and the pass alone.

    Args:
        questions: the training set.
        seed: of the order.
        curriculum: `none`, or `easy_first`: each pass goes from L1 up, shuffled within a level.

    Raises:
        ValueError: no questions, or a curriculum over questions without levels.
    """

    def __init__(self, questions: list[Question], seed: int, curriculum: str = "none") -> None:
        if not questions:
            raise ValueError("grpo.questions holds no question; run prepare_data and label_difficulty first")
        if curriculum == "easy_first" and any(question.level is None for question in questions):
            raise ValueError("grpo.curriculum=easy_first needs difficulty levels; run label_difficulty first")
        self.questions = {question.id: question for question in questions}
        self.seed = seed
        self.curriculum = curriculum
        self.epoch = -1
        self.pending: deque[str] = deque()

    def take(self, count: int) -> list[Question]:
        """The next `count` questions; a pass that ends in the middle is followed by the next one."""
        taken = []
        while len(taken) < count:
            if not self.pending:
                self._start_epoch()
            taken.append(self.questions[self.pending.popleft()])
        return taken

    def judge(self, groups: list[Group]) -> None:
        """How questions were answered; this order does not depend on it."""

    def put_back(self, questions: list[Question]) -> None:
        """Returns questions that were asked but not trained on; they come first in the next `take`."""
        self.pending.extendleft(question.id for question in reversed(questions))

    def state(self) -> dict:
        return {"epoch": self.epoch, "pending": list(self.pending), "passes": self.passes}

    @property
    def passes(self) -> float:
        """How often every question has been asked, on average; those that were put back are not counted."""
        return self.epoch + 1 - len(self.pending) / len(self.questions)

    def restore(self, state: dict, drop_unknown: bool = False) -> None:
        """Goes on from `state()`.

        Args:
            state: of a stream over the same questions.
            drop_unknown: the questions may be others: those that the training set no longer has are left out, and new
                ones come with the next pass.

        Raises:
            ValueError: the state names questions that the training set no longer has.
        """
        unknown = [name for name in state["pending"] if name not in self.questions]
        if unknown and not drop_unknown:
            raise ValueError(
                f"the checkpoint's data order names {len(unknown)} questions that the training file lacks, "
                f"{unknown[0]!r} first; resume with the file that the run was started with"
            )
        self.epoch = state["epoch"]
        self.pending = deque(name for name in state["pending"] if name in self.questions)

    def _start_epoch(self) -> None:
        self.epoch += 1
        order = sorted(self.questions)
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        if self.curriculum == "easy_first":
            order.sort(key=self._level)
        self.pending.extend(order)

    def _level(self, name: str) -> int:
        level = self.questions[name].level
        assert level is not None  # a curriculum over questions without levels was refused
        return level
