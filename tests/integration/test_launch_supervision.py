"""What watches a run's servers: launch/local.py on one machine, slurm/supervise.sh in a job. One table holds the two in
step: the same server, real processes, the same limits, and the same end. Slurm's commands are stood in for; tests/slurm
has the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.slurm import Step, write_steps

ROOT = Path(__file__).resolve().parents[2]
# the ways of the server's lives → how often it is started, and whether the run goes on to its end
TABLE = [
    (["well"], 1, True),
    (["dies"], 1, False),
    (["silent"], 1, False),
    (["exits", "well"], 2, True),
    (["hangs", "well"], 2, True),
    (["sick", "well"], 2, True),
    (["exits", "dies", "well"], 3, True),
    (["exits"], 3, False),
]
COMMANDS = {
    "srun": """
        for word in "$@"; do
            shift
            case $word in
                --job-name=*) echo $$ >"$STEPS/${word#*=}" ;;
                --output=*) exec >>"${word#*=}" 2>&1 ;;
                --*) ;;
                *) exec "$word" "$@" ;;
            esac
        done""",
    "squeue": 'cd "$STEPS" && for name in *; do echo "$(<"$name") $name"; done',
    "scancel": 'kill -s "${1#--signal=}" "$2"',
}
JOB = """
set -Eeuo pipefail
say() { echo "$1" >&2; }
source slurm/supervise.sh
trap stop_steps EXIT
start_servers
if [[ -z $DIED ]]; then
    start trainer
    watch_trainer
fi
echo "$DIED"
"""


def components(folder: Path, ways: list[str]) -> tuple[Component, Component]:
    port = free_port()
    argv = [sys.executable, "-IS", str(Path(__file__).with_name("supervised_server.py")), str(port), str(folder), *ways]
    server = Component("vllm", argv, health=f"http://127.0.0.1:{port}/health", restarts=2)
    server.ready_within_s = 2.0 if ways == ["silent"] else 60.0
    server.silent_within_s, server.sick_within_s = 2.0, 1.0
    settled = folder / "settled"
    return server, Component("trainer", ["bash", "-c", f"until [[ -e {settled} ]]; do sleep 0.1; done"], grace_s=1)


def on_this_machine(folder: Path, server: Component, trainer: Component) -> str:
    """The error, or nothing."""
    try:
        with Launcher(folder / "logs") as launcher:
            launcher.start(server)
            launcher.wait_ready(server.name)
            launcher.start(trainer)
            launcher.wait(trainer.name)
    except ComponentError as error:
        return str(error)
    return ""


def in_a_job(folder: Path, server: Component, trainer: Component) -> str:
    attempt, commands, steps = folder / "run/logs/1-0", folder / "commands", folder / "steps"
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(folder), "run"
    write_steps(cfg, [Step(server, ("node",)), Step(trainer, ("node",))], attempt)
    commands.mkdir()
    steps.mkdir()
    for name, lines in COMMANDS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (commands / name).chmod(0o755)
    env = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "STEPS": str(steps), "ATTEMPT": str(attempt)}
    env |= {"SLURM_JOB_ID": "1", "CONTAINER": ""}
    job = ["bash", "-c", "unset CONTAINER; CONTAINER=()" + JOB]
    done = subprocess.run(job, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("ways", "lives", "goes_on"), TABLE, ids=["-".join(row[0]) for row in TABLE])
@pytest.mark.parametrize("supervise", [on_this_machine, in_a_job])
def test_a_server_fares_alike_on_one_machine_and_in_a_job(supervise, ways, lives, goes_on, tmp_path: Path) -> None:
    error = supervise(tmp_path, *components(tmp_path, ways))
    assert len((tmp_path / "lives").read_text().splitlines()) == lives
    assert (not error) == goes_on
    if error:
        assert error.startswith("vllm ")
