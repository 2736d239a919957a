"""A run folder with every file that the report reads, made of smooth invented curves; no model was trained for it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import yaml

CONFIG = {
    "run": {"name": "quickstart", "seed": 1},
    "model": {"path": "runs/quickstart/base", "dtype": "float32"},
    "parallel": {"tensor": 2, "pipeline": 1, "data": 1},
    "grpo": {
        "steps": 40,
        "samples_per_question": 8,
        "advantage": "group_std",
        "loss": "clip",
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dynamic_sampling": False,
        "max_token_mult_prob_error": 1.05,
    },
    "rollout": {"api_key": "do-not-show-this", "temperature": 1.0, "extra_args": []},
    "exp_manager": {"wandb": {"api_key": "nor-this", "project": "alphamed"}},
}


def make_run(root: Path, steps: int = 40, seed: int = 1) -> Path:
    """Write the folder and return it."""
    (root / "eval").mkdir(parents=True)
    (root / "samples").mkdir()
    (root / "data").mkdir()
    rng = random.Random(seed)
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    write_lines(root / "metrics.jsonl", [metrics_row(step, steps, rng) for step in range(1, steps + 1)])
    levels = [level for level, count in enumerate((9, 41, 130, 310, 420, 290), start=1) for _ in range(count)]
    write_lines(root / "data" / "labelled.jsonl", [labelled_row(i, level) for i, level in enumerate(levels)])
    for label, accuracy, length, reasoned in (
        ("base", 0.2552, 11.2, 0.08),
        ("base, forced to reason", 0.8906, 31.0, 1.0),
        ("trained", 0.9583, 33.1, 0.99),
    ):
        write_evaluation(root, label, accuracy, length, reasoned)
    write_lines(root / "samples" / "step_1.jsonl", [sample_row(i, reasoned=i == 3) for i in range(6)])
    write_lines(root / "samples" / f"step_{steps}.jsonl", [sample_row(i, reasoned=True) for i in range(2, 8)])
    summary = {
        "stage_seconds": {"Prepare data": 4.2, "Label difficulty": 31.0, "Train with GRPO": 118.4, "Evaluate": 21.9},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "megatron-core": "0.16.1"},
    }
    (root / "summary.json").write_text(json.dumps(summary))
    return root


def labelled_row(i: int, level: int) -> dict:
    metadata = {"tokens": 20 + i % 90, "correct": 6 - level, "samples": 5}
    return {"id": str(i), "dataset": f"set{i % 2}", "level": level, "metadata": metadata}


def metrics_row(step: int, steps: int, rng: random.Random) -> dict:
    learnt = 1 - math.exp(-5 * step / steps)
    row = {
        "step": step,
        "reward/mean": 0.29 + 0.6 * learnt + rng.gauss(0, 0.02),
        "effective_query_ratio": 0.97 - 0.36 * learnt + rng.gauss(0, 0.04),
        "effective_query_ratio/L2": 0.6 - 0.5 * learnt,
        "effective_query_ratio/L5": 0.7 + 0.2 * learnt,
        "response_length/mean": 12 + 22 * learnt + rng.gauss(0, 0.7),
        "response_length/max": 48.0,
        "response_length/clip_ratio": 0.03 * (1 - learnt),
        "reasoned_ratio": min(1.0, 0.1 + 0.9 * learnt),
        "unparsable_ratio": 0.12 * (1 - learnt),
        "entropy": 0.9 - 0.6 * learnt + rng.gauss(0, 0.02),
        "grad_norm": 0.6 * math.exp(-2 * step / steps) + 0.1 + abs(rng.gauss(0, 0.05)),
        "loss": rng.gauss(0, 0.01),
        "token_mult_prob_error": 1 + 2.4e-7 * rng.lognormvariate(0, 0.2),
        "logprob_difference_max": 6e-6 * rng.lognormvariate(0, 0.4),
    }
    timing = {
        "generation": 1.1 + 0.6 * learnt + rng.random() * 0.2,
        "reward": 0.03,
        "old_logprobs": 0.0,
        "training": 0.7 + 0.2 * learnt,
        "refit": 0.06,
        "checkpoint": 0.4 if step % 10 == 0 else 0.0,
    }
    row |= {f"timing/{name}": value for name, value in timing.items()}
    row["timing/step"] = sum(timing.values()) + 0.05
    return row


def write_evaluation(root: Path, label: str, accuracy: float, length: float, reasoned: float) -> None:
    record = {
        "label": label,
        "model": "runs/quickstart/" + ("hf" if label == "trained" else "base"),
        "n": 384,
        "accuracy": accuracy,
        "interval": [accuracy - 0.03, min(1.0, accuracy + 0.025)],
        "unanswered": 3,
        "mean_length": length,
        "reasoned_ratio": reasoned,
        "by_dataset": {
            name: {"accuracy": accuracy + shift, "interval": [accuracy - 0.05, min(1.0, accuracy + 0.04)], "n": 192}
            for name, shift in (("medqa", 0.02), ("medmcqa", -0.02))
        },
    }
    (root / "eval" / f"{label.replace(' ', '_').replace(',', '')}.json").write_text(json.dumps(record))


def sample_row(i: int, reasoned: bool) -> dict:
    reasoning = "The findings suggest Kelosis. First line for Kelosis is Ramumab. A Torimab no. B Ramumab yes. "
    correct = reasoned or i % 4 == 0
    return {
        "question_id": f"clinic-{i}",
        "prompt": f"A patient has dalor <i>{i}</i> and a swollen fenit. Which drug is the first line?",
        "options": ["Torimab", "Ramumab", "Vesimab", "Kolumab"],
        "answer": "B",
        "response": (reasoning if reasoned else "") + f"The final answer is \\boxed{{{'B' if correct else 'D'}}}.",
        "extracted": "B" if correct else "D",
        "reward": 1.0 if correct else 0.0,
        "truncated": False,
        "length": 33 if reasoned else 11,
    }


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
