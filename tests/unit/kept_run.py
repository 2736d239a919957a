"""Run folders with kept rollouts, written column by column; no model was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_table import BATCH, SCHEMA

QUESTIONS = [
    Question(f"q{n}", "bank", f"Which drug treats illness {n}?", ("yes", "no", "both"), "ABC"[n % 3], level=n % 3 + 1)
    for n in range(5)
]


def response(question: str, group: int, text: str = r"\boxed{A}", **other: Any) -> dict[str, Any]:
    """A row of a step's file."""
    row = {
        "question_id": question,
        "group": group,
        "trained": True,
        "prompt_ids": [1, 2],
        "response_ids": [3, 4, 5],
        "logprobs": [-0.5, -0.25, -0.125],
        "text": text,
        "truncated": False,
        "weight_version": 0,
        "answer": "A",
        "reason": "correct",
        "reward": 1.0,
        "parts": "{}",
        "shaped_reward": 1.0,
        "advantage": 0.5,
    }
    return row | {"shaped_reward": other.get("reward", 1.0)} | other


def write_step(root: Path, step: int, rows: Sequence[dict[str, Any]]) -> None:
    path = root / "rollouts" / f"step_{step}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({BATCH: json.dumps({"step": step})})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def make_kept_run(root: Path, steps: int = 3, text: str = r"\boxed{A}") -> Path:
    """Each step asks q0 and one other question, twice each; q0 is answered wrongly in the first step only."""
    (root / "data").mkdir(parents=True)
    write_questions(QUESTIONS, root / "data" / "subset.jsonl")
    (root / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    wrong = {"reason": "wrong", "reward": 0.0, "answer": "B", "advantage": -0.5}
    for step in range(1, steps + 1):
        first = [response("q0", 0, f"{text} {step}", weight_version=step - 1, **(wrong if step == 1 else {}))] * 2
        other = [response(f"q{1 + step % 4}", 1, f"{text} {step} {n}", trained=n < 0) for n in range(2)]
        write_step(root, step, first + other)
    return root
