"""The sbatch scripts: their headers, and that bash and shellcheck find nothing in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alphamed_nemo.cli.recipe import composed

ROOT = Path(__file__).resolve().parents[2]
SHELL = sorted([*ROOT.glob("slurm/*.sh"), *ROOT.glob("tests/slurm/*.sh"), ROOT / "run", ROOT / ".ci" / "run"])
JOBS = sorted(path for path in ROOT.glob("slurm/*.sh") if "\n#SBATCH" in path.read_text())
TRAINING = [path for path in JOBS if path.name.startswith("grpo_")]


def header(path: Path) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", path.read_text(), re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name}; it is among the project's dev requirements")
    return found


def test_every_size_and_stage_has_its_script() -> None:
    assert {path.stem for path in TRAINING} == {"grpo_tiny", "grpo_3b", "grpo_7b", "grpo_8b", "grpo_70b"}
    assert {"label", "convert", "evaluate", "report"} <= {path.stem for path in JOBS}


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    found = subprocess.run([tool("shellcheck"), "-x", path], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_header_says_nothing_of_a_site_and_nothing_that_leaks_into_steps(path: Path) -> None:
    options = header(path)
    assert not {"account", "partition", "qos", "reservation"} & set(options)
    # Each would be taken over by every srun, whatever that srun says itself.
    assert not {"ntasks", "ntasks-per-node", "cpus-per-task"} & set(options)
    assert options["open-mode"] == "append"  # a requeued job goes on in the same log
    assert (ROOT / options["output"]).parent.is_dir()  # Slurm fails a job without a word where it is missing
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.name)
def test_training_jobs_hear_of_their_end_in_time_and_can_be_requeued(path: Path) -> None:
    options = header(path)
    assert re.fullmatch(r"B:USR1@\d+", options["signal"]) and int(options["signal"].split("@")[1]) >= 120
    assert "requeue" in options and options["dependency"] == "singleton"


@pytest.mark.parametrize("path", [path for path in TRAINING if path.stem != "grpo_tiny"], ids=lambda path: path.stem)
def test_the_nodes_of_a_size_are_those_that_its_layout_needs(path: Path) -> None:
    experiment = re.search(r"^train (\w+) ", path.read_text(), re.MULTILINE)[1]
    cfg = composed("train_grpo", [f"experiment={experiment}"])
    training = int(header(path)["nodes"]) - cfg.plan.rollout_nodes
    assert cfg.parallel.world_size == training * int(header(path)["gpus-per-node"])


def test_the_chain_orders_its_stages_and_its_dry_run_submits_nothing(tmp_path: Path) -> None:
    env = os.environ | {"ALPHAMED_SITE": "none", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/submitted\nwc -l <{tmp_path}/submitted\n')
    sbatch.chmod(0o755)
    command = [ROOT / "slurm" / "pipeline.sh", "8b", "--qos=short", "run.name=mine"]
    shown = subprocess.run([*command, "--dry-run"], env=env, capture_output=True, text=True, check=True).stderr
    assert shown.count("sbatch --parsable") == 6 and not (tmp_path / "submitted").exists()
    subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    lines = [line.split() for line in (tmp_path / "submitted").read_text().splitlines()]
    scripts = [next(word for word in line if word.startswith("slurm/")) for line in lines]
    assert scripts == [f"slurm/{name}.sh" for name in ("evaluate", "label", "grpo_8b", "convert", "evaluate", "report")]
    after = [next((word for word in line if word.startswith("--dependency=")), "") for line in lines]
    # Job n is the n-th submitted.
    expected = ["", "", "afterok:2,singleton", "afterok:3", "afterok:4", "afterok:5:1"]
    assert after == [name and f"--dependency={name}" for name in expected]
    assert all("--qos=short" in line and "run.name=mine" in line and "experiment=grpo_8b" in line for line in lines)
    assert "--job-name=mine" in lines[2]


def test_a_chain_can_start_at_a_later_stage(tmp_path: Path) -> None:
    command = [ROOT / "slurm" / "pipeline.sh", "8b", "--from=convert", "--dry-run"]
    env = os.environ | {"ALPHAMED_SITE": "none"}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr.splitlines()
    assert [re.search(r"slurm/(\w+)\.sh", line)[1] for line in shown] == ["convert", "evaluate", "report"]
