"""The top of a recipe with NeMo and Hydra: exit codes, one-line errors, and nothing written where it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphamed_nemo.config import Config

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "tests.integration.launch_recipe"]
LIMIT_S = 120


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    pipe = subprocess.PIPE
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*PROGRAM, *overrides], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *overrides: str) -> tuple[int, str, str]:
    process = start(folder, *overrides)
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def test_a_good_command_line_runs_quietly_and_leaves_nothing_where_it_was_started(tmp_path: Path) -> None:
    assert run(tmp_path, "grpo.steps=7") == (0, "7 steps\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.stps=3", "unknown setting 'grpo.stps'; the nearest one is 'grpo.steps'"),
        ("experiment=huge", "experiment: no conf/experiment/huge.yaml; there are "),
        ("grpo.steps=many", "grpo.steps: found 'many' (str), expected int"),
        ("model.path=${nosuch}", "Interpolation key 'nosuch' not found"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(tmp_path: Path, override: str, message: str) -> None:
    status, out, err = run(tmp_path, override)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_component_is_status_1_with_its_last_lines(tmp_path: Path) -> None:
    status, _, err = run(tmp_path, "run.name=fails")
    assert status == 1
    assert "error: vllm ended with status 4\nlast lines of runs/fails/logs/vllm.log:\n  out of memory\n" in err


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")])
def test_a_signal_stops_everything_and_says_so(tmp_path: Path, number: signal.Signals, words: str) -> None:
    process = start(tmp_path, "run.name=waits")
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["75 steps\n", "waiting\n"]
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert err.endswith(f"error: {words}; everything that was started has been stopped\n")


UNDER = {
    "alone": {},
    "torchrun": {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"},
    "srun": {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "grpo", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}


@pytest.mark.parametrize("launcher", list(UNDER))
def test_metrics_reach_tensorboard_through_nemos_experiment_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    from alphamed_nemo.grpo.loggers import experiment_loggers

    for name, value in UNDER[launcher].items():
        monkeypatch.setenv(name, value)
    cfg = Config()
    cfg.run.dir = str(tmp_path)
    log = experiment_loggers(cfg)
    for step in range(3):
        log({"reward/mean": step / 4, "timing/step": 1.0}, step)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {"reward/mean", "timing/step"}
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_tensorboard_shows_no_step_twice_after_a_resume_from_an_earlier_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer import event_file_writer

    from alphamed_nemo.grpo.loggers import experiment_loggers

    # TensorBoard reads files in the order of their names: second, process, and a number, which has one digit here.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    cfg = Config()
    cfg.run.dir = str(tmp_path)
    for attempt, steps in enumerate([(1, 2, 3, 4), (3, 4, 5), (4,)]):
        log = experiment_loggers(cfg)
        log.rewind(steps[0] - 1)
        for step in steps:
            log({"reward/mean": step + attempt / 4}, step)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("reward/mean")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 3.25), (4, 4.5)]
