"""The sbatch scripts on a real cluster: four ranks over two nodes, rollout servers on one or both of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.lab import ROOT, Job, Lab
from tests.slurm.runs import (
    START_S,
    WANTED,
    let_it_end_at,
    metrics,
    newest,
    nothing_runs,
    open_ended,
    settings,
    submit,
    wait_for_steps,
)


def test_the_whole_chain_with_a_preemption_ends_in_an_evaluated_model_and_its_report(lab: Lab, questions: Path) -> None:
    # Ranks on the first node, a server on each of the others.
    run, site = lab.folder / "runs" / "chain", open_ended(lab, "chain")
    apart = {"ALPHAMED_SITE": str(site), "ALPHAMED_ROLLOUT_NODES": "2"}
    words = ["--nodes=3", "parallel.tensor=2", "parallel.pipeline=1", "rollout.engines=1"]
    words += settings(questions, "chain", WANTED)
    lab.command("slurm/pipeline.sh", "tiny", f"--output={lab.folder}/%j.out", *words, **apart)
    rows = lab.command("squeue", "--noheader", "--format=%j %A").splitlines()
    jobs = {name: Job(lab, number) for name, number in map(str.split, rows)}
    assert set(jobs) == {"chain", *(f"chain-{stage}" for stage in ("label", "convert", "evaluate", "report"))} | {
        "chain-evaluate_base"
    }
    assert jobs["chain-label"].wait(START_S) == "COMPLETED"

    grpo = jobs["chain"]
    wait_for_steps(grpo, lab, "chain", 2)
    ranks = {process.env["RANK"]: process.node for process in grpo.step("trainer") if "RANK" in process.env}
    assert ranks == {"0": "n1", "1": "n1"}
    for server, node in (("vllm-0", "n2"), ("vllm-1", "n3")):
        assert {process.node for process in grpo.step(server)} == {node}
    lab.command("scancel", "--batch", "--signal=USR1", grpo.id)  # what --signal=B:USR1@120 delivers
    grpo.wait(START_S, "PENDING")
    saved = newest(run)
    assert saved >= 2 and not (run / "DONE").exists()
    nothing_runs(grpo)

    let_it_end_at(site, saved + 2)
    grpo.restart()
    assert grpo.wait(START_S) == "COMPLETED"
    assert grpo.field("Restarts") == "1"
    rows = metrics(lab, "chain")
    assert [row["step"] for row in rows] == list(range(1, saved + 3))
    assert {row["rollout_servers"] for row in rows} == {2.0}
    log = (run / "logs" / f"{grpo.id}-1" / "trainer-0.log").read_text()
    assert f"resumed from {run}/checkpoints/step_{saved} " in log

    for stage in ("evaluate_base", "convert", "evaluate", "report"):
        assert jobs[f"chain-{stage}"].wait(START_S) == "COMPLETED", jobs[f"chain-{stage}"].output[-3000:]
    evaluated = {path.stem: json.loads(path.read_text()) for path in (run / "eval").glob("*.json")}
    assert {name: row["n"] for name, row in evaluated.items()} == {"base": 20, "hf": 20}
    assert "Accuracy went from" in (run / "report" / "index.html").read_text()
    for job in jobs.values():
        nothing_runs(job)

    again = submit(lab, questions, "chain", steps=saved + 2)
    assert again.wait(START_S) == "COMPLETED"
    assert "is complete" in again.output and not (run / "logs" / f"{again.id}-0").exists()


@pytest.mark.nightly
def test_in_the_container_a_server_is_replaced_a_lost_rank_ends_the_attempt_and_scancel_everything(
    lab: Lab, questions: Path, container_plugin: Path | None
) -> None:
    if container_plugin is None:
        pytest.skip("the stand-in for Pyxis needs gcc and Slurm's headers")
    parts = {ROOT, lab.folder, questions, Path(sys.prefix), Path(sys.base_prefix)}
    mounts = [f"/{name}:/{name}" for name in ("usr", "etc", "var")]
    mounts += [f"{path}:{path}" for path in sorted(parts) if not path.is_relative_to("/usr")]
    image = {"ALPHAMED_IMAGE": "registry#alphamed-nemo:test", "ALPHAMED_MOUNTS": ",".join(mounts)}
    # One that lasts: each start of vLLM would import itself again, in a process that asks what the model can do.
    image["ALPHAMED_CACHE"] = f"{lab.folder}/cache"
    run = lab.folder / "runs" / "container"
    # Colocated with the ranks on both nodes; the one that is killed is not rank 0's neighbour.
    job = submit(lab, questions, "container", "grpo.save_every=5", "rollout.servers=2", "rollout.engines=1", **image)
    wait_for_steps(job, lab, "container", 1)
    ranks = [process for process in job.step("trainer") if "RANK" in process.env]
    assert {process.env["CONTAINER_STUB_IMAGE"] for process in ranks} == {f"alphamed-{job.id}-0"}

    assert {process.node for process in job.step("vllm-0")} == {"n1"}
    assert {process.node for process in job.step("vllm-1")} == {"n2"}
    job.kill("vllm-1", "EngineCore")
    job.until(lambda: re.search("vllm-1 ended with .* started again", job.output), START_S, "another server")
    wait_for_steps(job, lab, "container", len(metrics(lab, "container")) + 2)
    job.until(lambda: newest(run) > 0, START_S, "a checkpoint: an attempt that saves nothing is not repeated")
    rows = metrics(lab, "container")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))

    job.kill("trainer", "grpo.worker", RANK="3")
    job.wait(START_S, "PENDING")
    assert "error: the trainer ended with status" in job.output and "requeued, to go on from checkpoint" in job.output
    nothing_runs(job)

    before = len(metrics(lab, "container"))
    job.restart()
    job.until(lambda: len(job.processes()) > 4, START_S, "its processes on both nodes")
    wait_for_steps(job, lab, "container", before + 1)
    assert {process.node for process in job.processes()} == {"n1", "n2"}
    lab.command("scancel", job.id)
    assert job.wait(30) == "CANCELLED"
    nothing_runs(job)


def test_settings_that_cannot_work_end_the_job_in_seconds_with_one_line(lab: Lab, questions: Path) -> None:
    job = submit(lab, questions, "wrong", "parallel.tensor=3")
    assert job.wait(60) == "FAILED"
    assert job.field("ExitCode") == "2:0"
    assert "error: parallel" in job.output and "Traceback" not in job.output
    assert not (lab.folder / "runs" / "wrong").exists()


def test_the_dry_run_shows_nodes_layout_memory_and_commands_and_submits_nothing(lab: Lab) -> None:
    shown = lab.command("slurm/grpo_tiny.sh", "--dry-run")
    assert "2, no GPUs: training on node1 node2, rollouts on node1, rewards on node1" in shown
    assert "tensor 2 × pipeline 2 × data 1 = 4 ranks, 2 a node" in shown
    assert "-m alphamed_nemo.grpo.worker" in shown and "-m alphamed_nemo.rollout.inside_vllm.main" in shown
    assert "--nodes=2 --nodelist=node1,node2 --ntasks=4 --ntasks-per-node=2" in shown
    assert lab.command("squeue", "--noheader") == ""
    words = ["slurm/grpo_tiny.sh", "--dry-run", "parallel.tensor=3"]
    wrong = subprocess.run(words, env=lab.env, cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "error: parallel.tensor: 3 does not divide" in wrong.stderr
