"""Everything that a run's policy said: rollouts/step_<n>.parquet, one row for each response, zstd-compressed.

A row has the response as it was sampled and scored. What a batch is beside its responses is in the file's metadata, so
that a step can be trained on again from its file alone (`grpo.replay`).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.collect import Collected, complete_group
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.rollout_table import BATCH, SCHEMA, read_table
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout


def write_rollouts(path: Path, step: int, batch: Collected) -> None:
    """Writes one step's file, in one piece.

    Raises:
        OSError: the disk refuses; names the file.
    """
    groups = [*((group, True) for group in batch.groups), *((group, False) for group in batch.dropped)]
    rows = [
        row | {"group": number, "trained": trained}
        for number, (group, trained) in enumerate(groups)
        for row in _rows(group)
    ]
    rest = {
        "step": step,
        "asked": batch.asked,
        "asked_effective": batch.asked_effective,
        "rounds": batch.rounds,
        "seconds": batch.seconds,
        "servers": batch.servers,
        "stream": batch.stream,
        "by_level": list(batch.by_level.items()),
    }
    table = pyarrow.Table.from_pylist(rows, schema=SCHEMA.with_metadata({BATCH: json.dumps(rest)}))
    with whole_file(path) as part:
        pyarrow.parquet.write_table(table, part, compression="zstd")


def read_rollouts(path: Path, questions: Mapping[str, Question], cfg: GrpoConfig, limit: int) -> Collected:
    """One step's batch, as `Collector.collect` gave it.

    Args:
        path: its file.
        questions: by id.
        cfg: makes advantages of the scores that the file has.
        limit: `rollout.max_new_tokens`.

    Raises:
        ValueError: the file is missing or none of these, or has a question that is not among `questions`; names it.
    """
    table, rest = read_table(path)
    groups: dict[int, Group] = {}
    trained: dict[int, bool] = {}
    for row in table.to_pylist():
        if row["question_id"] not in questions:
            raise ValueError(f"{path}: question {row['question_id']!r} is not in grpo.questions")
        group = groups.setdefault(row["group"], Group(questions[row["question_id"]], [], [], []))
        group.rollouts.append(
            Rollout(
                row["prompt_ids"],
                array("i", row["response_ids"]),
                array("f", row["logprobs"]),
                row["weight_version"],
                row["truncated"],
                row["text"],
            )
        )
        group.scores.append(Score(row["reward"], row["answer"], row["reason"], json.loads(row["parts"])))
        trained[row["group"]] = row["trained"]
    whole = {
        number: complete_group(group.question, group.rollouts, group.scores, cfg, limit)
        for number, group in groups.items()
    }
    return Collected(
        groups=[group for number, group in whole.items() if trained[number]],
        dropped=[group for number, group in whole.items() if not trained[number]],
        by_level={level: tuple(counts) for level, counts in rest["by_level"]},
        **{name: rest[name] for name in ("asked", "asked_effective", "rounds", "seconds", "servers", "stream")},
    )


def _rows(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "question_id": group.question.id,
            "prompt_ids": rollout.prompt_ids,
            "response_ids": rollout.response_ids.tolist(),
            "logprobs": rollout.logprobs.tolist(),
            "text": rollout.text,
            "truncated": rollout.truncated,
            "weight_version": rollout.weight_version,
            "answer": score.answer,
            "reason": score.reason,
            "reward": score.reward,
            "parts": json.dumps(score.parts),
            "shaped_reward": reward,
            "advantage": advantage,
        }
        for rollout, score, reward, advantage in zip(
            group.rollouts, group.scores, group.rewards, group.advantages, strict=True
        )
    ]
