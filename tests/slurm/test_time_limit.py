"""A job whose --time is far too short: Slurm's clock ends every attempt, and the run is the one that had the time."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from tests.metrics_rows import timeless
from tests.slurm.lab import Job, Lab
from tests.slurm.runs import (
    START_S,
    WANTED,
    contents,
    let_it_end_at,
    metrics,
    newest,
    nothing_runs,
    open_ended,
    submit,
)

REQUEUES = 3
ATTEMPT_S = 900.0  # more than any limit that comes to be
# Slurm looks every 30 s and warns up to a minute early: SIGUSR1 comes 30 to 60 s after the start, and whatever the
# ranks then do has three minutes left.
LIMITS = ["--time=00:04:00", "--signal=B:USR1@150"]
# Weights that move to the last step, and surplus groups whose questions are carried from step to step.
WORDS = ["grpo.dynamic_sampling=true", "grpo.max_sampling_rounds=100", "grpo.samples_per_question=4"]
WORDS += ["rollout.max_new_tokens=48", "optim.lr=3e-5"]


def ended(job: Job, attempts: int) -> bool:
    """Waits for the end of the n-th attempt; whether the run is complete, and not requeued."""

    def requeued() -> bool:
        return job.output.count("not complete: requeued") == attempts and job.state == "PENDING"

    job.until(lambda: requeued() or job.state == "COMPLETED", ATTEMPT_S, f"the end of attempt {attempts}")
    nothing_runs(job)
    return job.state == "COMPLETED"


@pytest.mark.nightly
def test_a_run_of_many_requeues_is_the_run_that_was_never_interrupted(lab: Lab, questions: Path) -> None:
    # No machine takes 10,000 steps in a minute, so every attempt meets its limit. Once that has happened often enough,
    # the run is given an end.
    site, run = open_ended(lab, "limited"), lab.folder / "runs" / "limited"
    limited = submit(lab, questions, "limited", *LIMITS, *WORDS, steps=WANTED, ALPHAMED_SITE=str(site))
    saved = requeues = 0
    for attempts in count(1):
        if ended(limited, attempts):
            break
        if newest(run) == saved:  # the servers were not even up: this machine needs longer
            lab.command("scontrol", "update", f"JobId={limited.id}", "TimeLimit=+2")
        else:
            saved, requeues = newest(run), requeues + 1
            if requeues == REQUEUES:
                let_it_end_at(site, saved + 2)
        limited.restart()

    steps = newest(run)
    assert int(limited.field("Restarts")) >= requeues >= REQUEUES and (run / "DONE").exists()
    unbroken = submit(lab, questions, "unbroken", *WORDS, steps=steps)
    assert unbroken.wait(START_S + 10 * steps) == "COMPLETED" and unbroken.field("Restarts") == "0"

    rows = [metrics(lab, name) for name in ("limited", "unbroken")]
    assert [row["step"] for row in rows[0]] == list(range(1, steps + 1))
    assert [timeless(row) for row in rows[0]] == [timeless(row) for row in rows[1]]
    ends = [contents(path / "checkpoints" / f"step_{steps}") for path in (run, run.with_name("unbroken"))]
    assert ends[0] == ends[1]
    assert ends[0]["step"] == steps and ends[0]["stream"]["pending"]
