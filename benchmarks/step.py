"""One GRPO step as a user runs it: vLLM server, reward server and trainer ranks, by phase."""

from __future__ import annotations

import json
from pathlib import Path

from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.launch.components import trainer
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, wait_ready
from benchmarks.workload import long_questions

WARM_UP = 2  # steps: the first generation and the first backward pass do things once


def measure_steps(cfg: Config, steps: int) -> list[dict[str, float]]:
    """Seconds by phase of `steps` steps after the warm-up: generation, reward, old_logprobs, training, refit, other
    and step; and the tokens of each step."""
    folder = RunFolder.of(cfg)
    cfg.grpo.steps = WARM_UP + steps
    questions = Path(cfg.grpo.questions)
    if not questions.exists():
        write_questions(long_questions(64), questions)
    with Launcher(folder.logs) as launcher:
        start_servers(cfg, launcher, cfg.model.path)
        wait_ready(launcher)
        write_config(cfg, folder.config)
        launcher.start(trainer(cfg))
        launcher.wait("trainer")
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [_phases(row) for row in rows[WARM_UP:]]


def _phases(row: dict) -> dict[str, float]:
    seconds = {name.removeprefix("timing/"): value for name, value in row.items() if name.startswith("timing/")}
    seconds.pop("checkpoint")
    seconds["other"] = seconds["step"] - sum(value for name, value in seconds.items() if name != "step")
    return seconds | {"response_length": row["response_length/mean"]}
