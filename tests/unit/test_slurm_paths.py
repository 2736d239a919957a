"""Jobs in folders with odd names. Slurm's commands are stand-ins; scripts, plan and steps are real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.launch.slurm import check_path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("alphamed_nemo", "conf", "recipes", "slurm", "pyproject.toml")
ODD = 'Zoë\'s "runs", $HOME & `more` = {a} [1]; $(x) *? #3 ~ : | <4>'

# Steps that only ask run for real. A server lasts until it is signalled; the trainer's script is read, and is complete.
SRUN = """#!/usr/bin/env bash
set -eu
printf '%s\\0' "$@" END >>"$CALLS"
for word in "$@"; do case $word in --job-name=*) name=${word#*=} ;; esac; done
while [[ $1 == -* ]]; do shift; done
export SLURMD_NODENAME=n1 SLURM_NNODES=1
case $name in
    reward | vllm) bash -n "$2"; echo "$$ $name" >>"$CALLS.steps"; exec sleep 300 ;;
    trainer) bash -n "$2"; touch "${2%/logs/*}/DONE" ;;
    *) exec "$@" ;;
esac
"""
COMMANDS = {
    "srun": SRUN,
    "sbatch": '#!/bin/sh\nprintf \'%s\\0\' sbatch "$@" END >>"$CALLS"\necho 17\n',
    "scontrol": "#!/bin/sh\necho n1\n",
    "squeue": '#!/bin/sh\ncat "$CALLS.steps"\n',
    "scancel": '#!/bin/sh\nkill -"${1#--signal=}" "$2"\n',
    "curl": "#!/bin/sh\necho 200\n",
    "getent": "#!/bin/sh\necho 10.0.0.1 n1\n",
}
ONE_RANK = ("parallel.tensor=1", "parallel.pipeline=1")
IN_A_JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_CPUS_ON_NODE": "2",
    "ALPHAMED_REQUEUE": "0",
}


@dataclass
class Site:
    """A project and a folder of runs, and Slurm's commands, which write their words to `calls`."""

    project: Path
    runs: Path
    commands: Path
    calls_file: Path

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "ALPHAMED_"))}
        env |= {"PATH": f"{self.commands}:{env['PATH']}", "CALLS": str(self.calls_file), "ALPHAMED_SITE": "none"}
        env |= {"ALPHAMED_HOME": str(self.project), "ALPHAMED_PYTHON": sys.executable, "ALPHAMED_RUNS": str(self.runs)}
        env |= {"PYTHONPATH": str(ROOT)} | variables
        command = ["bash", self.project / "slurm" / script, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    def calls(self) -> list[list[str]]:
        text = self.calls_file.read_text() if self.calls_file.exists() else ""
        return [call.split("\0") for call in text.removesuffix("\0END\0").split("\0END\0") if call]


def site(folder: Path, name: str, runs: str) -> Site:
    commands = folder / "commands"
    commands.mkdir()
    for command, text in COMMANDS.items():
        (commands / command).write_text(text)
        (commands / command).chmod(0o755)
    project = folder / name
    project.mkdir()
    for part in PARTS:
        (project / part).symlink_to(ROOT / part)
    return Site(project, folder / runs, commands, folder / "calls")


def test_a_job_runs_in_a_project_and_in_runs_of_odd_names(tmp_path: Path) -> None:
    place = site(tmp_path, f"project {ODD}", f"runs {ODD}")
    questions = place.runs / "questions.jsonl"
    write_questions(embedded_bank(8, 0)[0], questions)
    model = ROOT / "alphamed_nemo" / "assets" / "tiny_base"
    words = [f"model.path={model}", "grpo.questions=${run.dir}/questions.jsonl", "grpo.questions_per_step=8"]
    words += ["run.name=odd", "rollout.engines=1", "rollout.memory_gb=0.1", "validate.every=0", *ONE_RANK]
    done = place.run("grpo_tiny.sh", *words, **IN_A_JOB)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"{place.runs}/odd is complete")
    logs = place.runs / "odd" / "logs" / "17-0"
    steps = {call[0]: call for call in place.calls()}
    assert sorted(steps) == [f"--job-name={name}" for name in ("plan", "preflight", "reward", "trainer", "vllm")]
    for name in ("reward", "vllm", "trainer"):
        call = steps[f"--job-name={name}"]
        assert f"--output={logs}/{name}.log" in call and call[-2:] == ["bash", f"{logs}/{name}.sh"]
    assert (place.runs / "odd" / "config.yaml").exists() and (logs / "job.txt").exists()


@pytest.mark.parametrize("script", ["grpo_8b.sh", "evaluate.sh", "pipeline.sh"])
@pytest.mark.parametrize("character", [",", ":", " ", "\t", "\n"])
def test_a_project_that_no_container_can_mount_is_refused_before_anything_is_submitted(
    tmp_path: Path, script: str, character: str
) -> None:
    place = site(tmp_path, f"my{character}project", "runs")
    words = ["8b"] if script == "pipeline.sh" else []
    refused = place.run(script, *words, ALPHAMED_IMAGE="registry#image:1")
    assert refused.returncode == 2 and place.calls() == []
    (line,) = refused.stderr.splitlines()
    assert "error: the project's folder is " in line
    assert line.endswith(": a container cannot mount a path with a comma, a colon or a space; move it")
    assert place.run(script, *words).returncode == 0  # without a container nothing is mounted
    assert place.calls()


def test_mounts_with_a_space_are_refused_and_those_with_commas_are_looked_for_one_by_one(tmp_path: Path) -> None:
    place = site(tmp_path, "project", "runs")
    data = tmp_path / "data"
    image = {"ALPHAMED_IMAGE": "registry#image:1"}
    refused = place.run("evaluate.sh", **image, ALPHAMED_MOUNTS=f"{data}/my files:/data")
    assert refused.returncode == 2 and place.calls() == []
    assert (
        f"ALPHAMED_MOUNTS: found '{data}/my files:/data', expected SRC:DST[,SRC:DST...] without spaces"
        in refused.stderr
    )
    data.mkdir()
    (data / "a").mkdir()
    refused = place.run("evaluate.sh", **image, **IN_A_JOB, ALPHAMED_MOUNTS=f"{data}/a:/a,{data}/b:/b")
    assert refused.returncode == 2 and place.calls() == []
    assert f"ALPHAMED_MOUNTS: nothing at {data}/b to mount" in refused.stderr


@pytest.mark.parametrize("name", ["50%", "a\\b", "a\nb"])
def test_logs_that_slurm_cannot_name_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="run.dir and run.name: found .*, expected a path that Slurm can"):
        check_path(Path("/runs") / name / "odd" / "logs" / "17-0")
    check_path(Path(f"/runs {ODD}") / "logs")


def test_the_plan_of_a_job_refuses_them_before_it_writes(tmp_path: Path) -> None:
    place = site(tmp_path, "project", "100%t")
    refused = place.run("grpo_tiny.sh", *ONE_RANK, **IN_A_JOB)
    assert refused.returncode == 2
    error, end = refused.stderr.splitlines()[-2:]
    assert "run.dir and run.name: found" in error and error.endswith("percent signs, backslashes and line breaks")
    assert end.endswith("error: nothing was started") and not place.runs.exists()
