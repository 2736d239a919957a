"""Training runs of the miniature as jobs, with steps of half a second, so that the tests are about jobs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.slurm.lab import Job, Lab

START_S = 240.0  # for servers and ranks to come up and take their first steps, on a busy machine


def settings(questions: Path, name: str, steps: int | str) -> list[str]:
    words = [f"run.name={name}", f"data.train={questions}/train.jsonl", f"data.heldout={questions}/heldout.jsonl"]
    words += ["label.samples=2", "label.per_level=8", "label.max_new_tokens=16", "evaluate.max_new_tokens=16"]
    words += [f"grpo.steps={steps}", "grpo.questions_per_step=8", "grpo.samples_per_question=2"]
    words += ["rollout.max_new_tokens=8", "rollout.memory_gb=0.1", "grpo.tokens_per_microbatch=2048"]
    return [*words, "grpo.save_every=1000", "run.loggers=[]"]


def submit(lab: Lab, questions: Path, name: str, *words: str, steps: int | str = 10_000, **variables: str) -> Job:
    own = [*settings(questions, name, steps), f"grpo.questions={questions}/train.jsonl", *words]
    return lab.submit("slurm/grpo_tiny.sh", *own, **variables)


def metrics(lab: Lab, name: str) -> list[dict]:
    path = lab.folder / "runs" / name / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_steps(job: Job, lab: Lab, name: str, steps: int) -> None:
    job.until(lambda: len(metrics(lab, name)) >= steps, START_S, f"{steps} training steps")


def nothing_runs(job: Job) -> None:
    job.until(lambda: not job.processes(), 15, "the end of its processes", after_end=True)
