"""Servers on several nodes, the ranks' own and others, undisturbed and with faults on the way: the run is that of one
server on one machine, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alphamed_nemo.config.files import load_config
from tests.integration.held import ASKED, FOLDER, Points
from tests.metrics_rows import timeless
from tests.slurm.lab import Lab
from tests.slurm.runs import START_S, contents, metrics, newest, nothing_runs, submit

STEPS = 5
SERVER = ("inside_vllm.main", "EngineCore")  # its programs
LAYOUT = ["parallel.tensor=2", "parallel.pipeline=1", "rollout.engines=1", "optim.lr=3e-5", "rollout.max_new_tokens=24"]


def record(lab: Lab, name: str) -> dict[str, object]:
    """All that the placement of the servers leaves as it is.

    What else a checkpoint records of its run differs by its name and its servers.
    """
    rows = [timeless(row) for row in metrics(lab, name)]
    for row in rows:
        del row["rollout_servers"]
    end = contents(lab.folder / "runs" / name / "checkpoints" / f"step_{STEPS}")
    kept = {part: end[part] for part in end if part.endswith(".distcp") or part in ("rng", "step", "stream")}
    return {"metrics": rows, "checkpoint": kept}


def servers_of(lab: Lab, name: str) -> list[str]:
    """URLs by which the ranks reached the servers. Each listens on its own node's address."""
    return load_config(lab.folder / "runs" / name / "config.yaml").rollout.urls


def nodes_of(urls: list[str]) -> list[str]:
    return [url.removeprefix("http://").partition(":")[0] for url in urls]


@pytest.fixture(scope="module")
def alone(cluster: Lab, questions: Path) -> dict[str, object]:
    job = submit(cluster, questions, "alone", "--nodes=1", *LAYOUT, steps=STEPS)
    assert job.wait(START_S) == "COMPLETED", job.output[-3000:]
    nothing_runs(job)
    assert nodes_of(servers_of(cluster, "alone")) == ["n1"]
    return record(cluster, "alone")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "words", "rollout_nodes", "serving"),
    [("together", ["--nodes=2", "rollout.servers=2"], "", ["n1", "n2"]), ("apart", ["--nodes=3"], "2", ["n2", "n3"])],
    ids=["together", "apart"],
)
def test_wherever_servers_are_the_run_is_that_of_one_server(
    lab: Lab, questions: Path, alone: dict, name: str, words: list[str], rollout_nodes: str, serving: list[str]
) -> None:
    job = submit(lab, questions, name, *words, *LAYOUT, steps=STEPS, ALPHAMED_ROLLOUT_NODES=rollout_nodes)
    assert job.wait(START_S) == "COMPLETED", job.output[-3000:]
    nothing_runs(job)
    assert nodes_of(servers_of(lab, name)) == serving
    assert {row["rollout_servers"] for row in metrics(lab, name)} == {2.0}
    assert record(lab, name) == alone


@pytest.fixture
def held(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a job whose ranks stand still at the points in the folder FOLDER."""
    python, site = lab.folder / "held_python", lab.folder / "held.env"
    python.write_text(
        f'#!/bin/bash\nexec {sys.executable} "${{@/#alphamed_nemo.launch.slurm/tests.slurm.held_plan}}"\n'
    )
    python.chmod(0o755)
    site.write_text(f"{Path(lab.env['ALPHAMED_SITE']).read_text()}ALPHAMED_PYTHON={python}\n")
    monkeypatch.setenv(FOLDER, "")  # restored, whatever is written there
    return {"ALPHAMED_SITE": str(site), FOLDER: str(lab.folder / "points")}


@pytest.mark.nightly
def test_a_run_that_loses_servers_a_rank_and_its_nodes_is_the_undisturbed_one(
    lab: Lab, questions: Path, alone: dict, held: dict[str, str]
) -> None:
    run, points = lab.folder / "runs" / "struck", Points(Path(held[FOLDER]))

    def stand_still(*ranks: int) -> None:
        job.until(lambda: all(points.is_reached_by(f"rank {rank}") for rank in ranks), START_S, f"ranks {ranks}")

    def is_back(number: int) -> None:
        name, url = f"vllm-{number}", servers_of(lab, "struck")[number]
        job.until(lambda: f"{name} ended with status" in job.output, START_S, f"the end of {name}")
        job.until(lambda: lab.is_healthy(url), START_S, f"another {name}")

    points.arm("sampling")
    words = ["--nodes=3", "grpo.save_every=1", *LAYOUT]
    job = submit(lab, questions, "struck", *words, steps=STEPS, ALPHAMED_ROLLOUT_NODES="2", **held)
    stand_still(0)
    job.kill("vllm-1", *SERVER)
    points.arm("update")
    stand_still(0, 1)  # the batch is complete, with one server
    is_back(1)
    points.arm("refit")
    stand_still(0)  # before the broadcast to both
    job.kill("vllm-0", *SERVER)
    points.arm("update")
    stand_still(0, 1)  # of the second step
    is_back(0)
    assert "it was cut off; trying again" in (run / "logs" / f"{job.id}-0" / "trainer-0.log").read_text()

    lab.command("scancel", "--batch", "--signal=USR1", job.id)  # a preemption
    job.until(lambda: points.is_reached_by(f"rank 0{ASKED}"), START_S, "the warning to reach the ranks")
    points.release()
    job.wait(START_S, "PENDING")
    nothing_runs(job)
    assert newest(run) == 2 and "requeued, to go on from checkpoint 2" in job.output

    points.arm("saved")
    job.restart()
    stand_still(0)  # with the third step's checkpoint: an attempt that saves nothing is not repeated
    points.arm("update")
    stand_still(0, 1)
    job.kill("trainer", "held_worker", RANK="1")
    points.release()
    job.wait(START_S, "PENDING")
    nothing_runs(job)
    assert newest(run) == 3 and "requeued, to go on from checkpoint 3" in job.output

    job.restart()
    assert job.wait(START_S) == "COMPLETED", job.output[-3000:]
    nothing_runs(job)
    assert job.field("Restarts") == "2" and nodes_of(servers_of(lab, "struck")) == ["n2", "n3"]
    served = [row["rollout_servers"] for row in metrics(lab, "struck")]
    assert served[0] == 1.0 and served[-1] == 2.0
    assert record(lab, "struck") == alone
