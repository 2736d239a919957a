"""What the page of responses knows of every response before it loads a text: numbers, column by column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow

from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_table import read_table
from alphamed_nemo.rewards.score import CORRECT, NO_ANSWER, WRONG

COLUMNS = ("question_id", "group", "trained", "response_ids", "truncated", "weight_version", "reason", "reward")
REASONS = {reason: number for number, reason in enumerate((CORRECT, WRONG, NO_ANSWER))}  # as the page numbers them
TRUNCATED = 4  # added to a response's outcome
STEM = 90  # characters of a question that a row of the list shows


class ResponseIndex:
    """Columns of responses in the order of steps, and of their groups; steps are added in that order.

    Args:
        questions: those whose text and level are known, by id.
    """

    def __init__(self, questions: Mapping[str, Question]) -> None:
        self.known = questions
        self.steps: list[int] = []
        self.step_groups: list[int] = []  # groups of each step
        self.questions: dict[str, int] = {}  # id → number, in the order first asked
        self.group_question: list[int] = []
        self.group_size: list[int] = []
        self.group_trained: list[int] = []
        self.reward: list[float] = []
        self.tokens: list[int] = []
        self.outcome: list[int] = []
        self.version: list[int] = []  # of the weights that sampled it

    def __len__(self) -> int:
        """Responses."""
        return len(self.reward)

    def add(self, step: int, path: Path) -> int:
        """Adds the responses of one step, and returns the number of the first.

        Raises:
            ValueError: the file cannot be read; names it.
        """
        first, table = len(self), read_table(path, COLUMNS)[0]
        groups = self._groups(table)
        self.steps.append(step)
        self.step_groups.append(groups)
        self.reward += (round(reward, 4) for reward in table["reward"].to_pylist())
        for chunk in table["response_ids"].chunks:
            self.tokens += chunk.value_lengths().to_pylist()
        self.outcome += (
            REASONS[reason] + TRUNCATED * truncated
            for reason, truncated in zip(table["reason"].to_pylist(), table["truncated"].to_pylist(), strict=True)
        )
        self.version += table["weight_version"].to_pylist()
        return first

    def columns(self) -> dict[str, Any]:
        """All of it, ready for JSON. `questions` has for each: id, level or null, how it begins."""
        return {
            "steps": self.steps,
            "stepGroups": self.step_groups,
            "questions": [self._shown(id) for id in self.questions],
            "groupQuestion": self.group_question,
            "groupSize": self.group_size,
            "groupTrained": self.group_trained,
            "reward": self.reward,
            "tokens": self.tokens,
            "outcome": self.outcome,
            "version": self.version,
        }

    def digest(self, *more: object) -> str:
        """A short name for these responses and whatever else makes the page."""
        return hashlib.sha256(json.dumps([self.columns(), *more]).encode()).hexdigest()[:10]

    def _groups(self, table: pyarrow.Table) -> int:
        rows = zip(*(table[name].to_pylist() for name in ("group", "question_id", "trained")), strict=True)
        count = 0
        for (_, id, trained), members in groupby(rows):
            self.group_question.append(self.questions.setdefault(id, len(self.questions)))
            self.group_size.append(sum(1 for _ in members))
            self.group_trained.append(int(trained))
            count += 1
        return count

    def _shown(self, id: str) -> list[Any]:
        question = self.known.get(id)
        if question is None:
            return [id, None, ""]
        return [id, question.level, " ".join(question.stem[: 2 * STEM].split())[:STEM]]
