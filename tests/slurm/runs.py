"""Training runs of the miniature as jobs, with steps of half a second, so that the tests are about jobs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from alphamed_nemo.config.run_folder import by_step
from alphamed_nemo.policy.checkpoint import manifest
from tests.slurm.lab import Job, Lab

START_S = 900.0  # for servers and ranks to come up and take their first steps, on a machine that does much else
# grpo.steps of a run that is given its end once something has happened to it: each attempt reads its site's file anew.
WANTED = "'${oc.decode:${oc.env:WANTED_STEPS}}'"
NO_END = 10_000  # steps, more than any machine takes meanwhile


def settings(questions: Path, name: str, steps: int | str) -> list[str]:
    words = [f"run.name={name}", f"data.train={questions}/train.jsonl", f"data.heldout={questions}/heldout.jsonl"]
    words += ["label.samples=2", "label.per_level=8", "label.max_new_tokens=16", "evaluate.max_new_tokens=16"]
    words += [f"grpo.steps={steps}", "grpo.questions_per_step=8", "grpo.samples_per_question=2"]
    words += ["rollout.max_new_tokens=8", "rollout.memory_gb=0.1", "grpo.tokens_per_microbatch=2048"]
    return [*words, "grpo.save_every=1000", "validate.every=0", "run.loggers=[]"]


def submit(lab: Lab, questions: Path, name: str, *words: str, steps: int | str = NO_END, **variables: str) -> Job:
    own = [*settings(questions, name, steps), f"grpo.questions={questions}/train.jsonl", *words]
    return lab.submit("slurm/grpo_tiny.sh", *own, **variables)


def open_ended(lab: Lab, name: str) -> Path:
    """A site's file, for ALPHAMED_SITE, of a run whose `grpo.steps` is WANTED."""
    path = lab.folder / f"{name}.env"
    path.write_text(Path(lab.env["ALPHAMED_SITE"]).read_text())
    let_it_end_at(path, NO_END)
    return path


def let_it_end_at(site: Path, steps: int) -> None:
    """From its next attempt on. What comes last in a site's file holds."""
    with site.open("a") as file:
        file.write(f"WANTED_STEPS={steps}\n")


def metrics(lab: Lab, name: str) -> list[dict]:
    path = lab.folder / "runs" / name / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def newest(run: Path) -> int:
    """Step of the newest checkpoint; 0 where there is none."""
    return max(by_step(run / "checkpoints"), default=0)


def contents(checkpoint: Path) -> dict[str, object]:
    """All that a checkpoint restores: checksums of tensors and random states, and the rest by value.

    Left out: .metadata, in which torch writes a random id, and the mean reward since the last checkpoint, which is
    another one for each.
    """
    files = manifest.read(checkpoint)["files"]
    found: dict[str, object] = {name: file["sha256"] for name, file in files.items() if name.endswith(".distcp")}
    found["rng"] = files["rng.pt"]["sha256"]
    found["common"] = torch.load(checkpoint / "common.pt", weights_only=False)
    state = json.loads((checkpoint / "state.json").read_text())
    state.pop("reward", None)  # not kept with dynamic sampling
    return found | state


def wait_for_steps(job: Job, lab: Lab, name: str, steps: int) -> None:
    job.until(lambda: len(metrics(lab, name)) >= steps, START_S, f"{steps} training steps")


def nothing_runs(job: Job) -> None:
    job.until(lambda: not job.processes(), 15, "the end of its processes", after_end=True)
