"""What another rule would have made of a run's responses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.run_folder import RunFolder, by_step
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_table import read_table
from alphamed_nemo.rewards.functions import RewardFunctions, needs_question
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardItem, Score

COLUMNS = ("question_id", "text", "answer", "reason", "reward")  # without ids and log-probs, most of a file
Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass
class Rescored:
    """One step, or all of them.

    Attributes:
        responses: how many.
        before, after: sums of their rewards.
        reasons: (reason before, reason after) → responses; a reason is correct, wrong or no_answer.
    """

    responses: int = 0
    before: float = 0.0
    after: float = 0.0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Rescored) -> None:
        self.responses += other.responses
        self.before += other.before
        self.after += other.after
        self.reasons += other.reasons

    @property
    def changed(self) -> int:
        """Responses whose reason is another one."""
        return sum(count for (before, after), count in self.reasons.items() if before != after)


def rescore(
    folder: RunFolder,
    reward: RewardConfig,
    questions: Mapping[str, Question],
    decode: Callable[[list[int]], str],
    out: Path,
    on_progress: Progress | None = None,
) -> dict[int, Rescored]:
    """Grades every kept response of a run again, and writes those with another reward or answer to `out`.

    Args:
        folder: the run.
        reward: the rule's protocol and the functions to grade by.
        questions: of the run, by id.
        decode: token ids to text, special tokens included, for functions that ask for the prompt.
        out: JSON lines: step, question, both grades, the response.

    Returns:
        By step.

    Raises:
        ValueError: no rollouts were kept, a file cannot be read, or a question is unknown; names file and question.
        FunctionFailed: a reward function raised, or gave no number.
    """
    paths = by_step(folder.rollouts, ".parquet")
    if not paths:
        raise ValueError(f"{folder.rollouts}: found no step_<n>.parquet; the run has not kept its rollouts")
    functions = RewardFunctions(reward) if reward.functions else None
    by_rule = partial(score_all, protocol=reward.protocol, max_chars=reward.max_response_chars)
    prompt = _Prompts(decode) if needs_question(reward) else None
    columns = (*COLUMNS, "prompt_ids") if prompt else COLUMNS
    found: dict[int, Rescored] = {}
    with whole_file(out) as part, part.open("w", encoding="utf-8") as file:
        for done, step in enumerate(paths, start=1):
            rows = read_table(paths[step], columns)[0].to_pylist()
            items = [*_items(rows, questions, prompt, paths[step])]
            scores = functions.score_all(items) if functions else by_rule(items)
            found[step] = _compare(rows, scores)
            for row, score in zip(rows, scores, strict=True):
                if (row["answer"], row["reward"]) != (score.answer, score.reward):
                    file.write(json.dumps(_difference(step, row, score), ensure_ascii=False) + "\n")
            if on_progress:
                on_progress(done, len(paths))
    return found


def in_all(found: Mapping[int, Rescored]) -> Rescored:
    """All steps together."""
    whole = Rescored()
    for each in found.values():
        whole.add(each)
    return whole


class _Prompts:
    """Decodes prompts; the responses of a group, one after the other, have the same."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.last: tuple[list[int], str] | None = None

    def __call__(self, ids: list[int]) -> str:
        if self.last is None or self.last[0] != ids:
            self.last = ids, self.decode(ids)
        return self.last[1]


def _items(
    rows: Sequence[Mapping[str, Any]],
    questions: Mapping[str, Question],
    prompt: Callable[[list[int]], str] | None,
    path: Path,
) -> Iterator[RewardItem]:
    for row in rows:
        question = questions.get(row["question_id"])
        if question is None:
            raise ValueError(f"{path}: question {row['question_id']!r} is not in the run's grpo.questions")
        if prompt is None:
            yield RewardItem(row["text"], question.answer, question.options)
        else:
            asked = prompt(row["prompt_ids"])
            yield RewardItem(row["text"], question.answer, question.options, prompt=asked, question=question)


def _compare(rows: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> Rescored:
    reasons = Counter((row["reason"], score.reason) for row, score in zip(rows, scores, strict=True))
    return Rescored(len(rows), sum(row["reward"] for row in rows), sum(score.reward for score in scores), reasons)


def _difference(step: int, row: Mapping[str, Any], score: Score) -> dict[str, Any]:
    return {
        "step": step,
        "question_id": row["question_id"],
        "before": {"answer": row["answer"], "reward": row["reward"]},
        "after": {"answer": score.answer, "reward": score.reward},
        "response": row["text"],
    }
