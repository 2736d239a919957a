"""What watches a run: launch/local.py on one machine, slurm/supervise.sh in a job. One table holds the two in
step: the same server, real processes, the same limits, and the same end. Slurm's commands are stood in for; tests/slurm
has the real ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.slurm import Step, write_steps
from tests.integration.supervised_server import STOPS

ROOT = Path(__file__).resolve().parents[2]
# the ways of the server's lives → how often it is started, and whether the run goes on to its end
TABLE = [
    (["well"], 1, True),
    (["dies"], 1, False),
    (["silent"], 1, False),
    (["exits", "well"], 2, True),
    (["hangs", "well"], 2, True),
    (["sick", "well"], 2, True),
    (["stops", "well"], 2, True),
    (["engine", "well"], 2, True),
    (["engine"], 3, False),
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
    if ! alive trainer; then wait "${PID[trainer]}" || DIED="trainer ended with status $?"; fi
fi
echo "$DIED"
"""


CONCLUDED = """
set -Eeuo pipefail
say() { echo "$1" >&2; }
die() { say "error: $2"; exit "$1"; }
source slurm/supervise.sh
RUN=${ATTEMPT%/logs/*} first_checkpoint=''
mapfile -t lines <"$ATTEMPT/steps"
for line in "${lines[@]}"; do ENDS_WITHIN[${line%%$'\t'*}]=1; done
start trainer
watch_trainer
conclude
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
    done = job(JOB, folder, [Step(server, ("node",)), Step(trainer, ("node",))])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def job(script: str, folder: Path, planned: list[Step]) -> subprocess.CompletedProcess[str]:
    """The script in an attempt of these steps."""
    attempt, commands, steps = folder / "run/logs/1-0", folder / "commands", folder / "steps"
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(folder), "run"
    write_steps(cfg, planned, attempt)
    commands.mkdir()
    steps.mkdir()
    for name, lines in COMMANDS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (commands / name).chmod(0o755)
    env = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "STEPS": str(steps), "ATTEMPT": str(attempt)}
    env |= {"SLURM_JOB_ID": "1", "CONTAINER": ""}
    asked = ["bash", "-c", "unset CONTAINER; CONTAINER=()" + script]
    return subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("ways", "lives", "goes_on"), TABLE, ids=["-".join(row[0]) for row in TABLE])
@pytest.mark.parametrize("supervise", [on_this_machine, in_a_job])
def test_a_server_fares_alike_on_one_machine_and_in_a_job(supervise, ways, lives, goes_on, tmp_path: Path) -> None:
    error = supervise(tmp_path, *components(tmp_path, ways))
    assert len((tmp_path / "lives").read_text().splitlines()) == lives
    assert (not error) == goes_on
    if error:
        assert error.startswith("vllm ")


@pytest.mark.parametrize("supervise", [on_this_machine, in_a_job])
def test_a_stopped_rank_ends_the_trainer_and_is_named_in_its_log(supervise, tmp_path: Path) -> None:
    server, _ = components(tmp_path, ["well"])
    stopped = f"import subprocess, sys; subprocess.run([sys.executable, '-IS', '-c', {STOPS!r}])"
    trainer = Component("trainer", [sys.executable, "-IS", "-c", stopped], grace_s=1, silent_within_s=1)
    error = supervise(tmp_path, server, trainer)
    assert error.startswith("trainer ended ")
    (log,) = tmp_path.rglob("trainer.log")
    assert re.search(r"error: process \d+ has been stopped \(SIGSTOP\) for 1 s \(run.hang_timeout_s\)", log.read_text())


FULL = "metrics.jsonl: No space left on device; free disk space there, then run the same command again"
# Rank 1's last words come first in the log, and many lines of torchrun's last.
RANKS = f"""
import sys
print("2026-01-01 00:00:02,000 rank 1 Traceback: Connection closed by peer")
print("2026-01-01 00:00:01,000 rank 0 error: {FULL}")
print("2026-01-01 00:00:03,000 rank 1 error: rank 0 failed")
print("E0101 error: more\\n" * 100)
sys.exit(1)
"""


def failing_ranks() -> Component:
    return Component("trainer", [sys.executable, "-IS", "-c", RANKS])


def test_the_error_of_a_rank_is_one_line_on_one_machine(tmp_path: Path) -> None:
    with Launcher(tmp_path) as launcher:
        (tmp_path / "trainer.log").write_text("error: of an earlier start\n")
        launcher.start(failing_ranks())
        with pytest.raises(ComponentError) as found:
            launcher.wait("trainer")
    log_file = tmp_path / "trainer.log"
    assert str(found.value) == f"trainer ended with status 1: {FULL} (all of its log: {log_file})"


def test_the_error_of_a_rank_is_one_line_in_a_job(tmp_path: Path) -> None:
    done = job(CONCLUDED, tmp_path, [Step(failing_ranks(), ("node",))])
    logs = tmp_path / "run/logs/1-0/trainer*.log"
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f"error: the trainer ended with status 1: {FULL}; {logs}",
        "error: this attempt saved nothing new, so it is not repeated",
    ]


RANK = """
import pathlib, signal, sys, time
print("importing", flush=True)
sys.stdin.readline()

def save(*_):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as a rank does: the interpreter's end restores the default
    sys.exit("saved")

signal.signal(signal.SIGUSR1, save)
print("listening", flush=True)
while True:
    time.sleep(0.1)  # signal.pause would miss one that comes just before it
"""


def test_a_task_of_slurm_hears_usr1_through_its_wrapper_and_survives_it_while_it_imports(tmp_path: Path) -> None:
    script = tmp_path / "trainer.sh"
    script.write_text(Step(Component("trainer", [sys.executable, "-IS", "-c", RANK]), ("node",)).script())
    pipe = subprocess.PIPE
    rank = subprocess.Popen(["bash", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert rank.stdin is not None and rank.stdout is not None
    assert rank.stdout.readline() == "importing\n"
    rank.send_signal(signal.SIGUSR1)
    rank.stdin.write("\n")
    rank.stdin.flush()
    assert rank.stdout.readline() == "listening\n"
    rank.send_signal(signal.SIGUSR1)
    assert rank.communicate(timeout=60)[1] == "saved\n"
    assert rank.returncode == 1
