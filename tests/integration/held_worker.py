"""A trainer rank that stands still at the points of `held`, with TensorBoard as its only logger.

load      before it reads the checkpoint that it resumes from
sampling  with the requests of a batch under way, before any answer is taken
update    before it trains on a batch
refit     with the engines paused, and the weights in shared memory, or about to be broadcast to them
samples   with the step's samples written, before its row of metrics
metrics   with the row on the disk, before TensorBoard gets it
save      with the rank's own part of a checkpoint written
publish   with the whole checkpoint written under its temporary name
saved     with the checkpoint in its place, before older ones are removed
done      with DONE written

A rank that hears that it is to stop says so, too, at whatever point it is (ASKED).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.grpo import worker
from alphamed_nemo.grpo.loggers import ExperimentLoggers
from alphamed_nemo.grpo.record import RunRecord
from alphamed_nemo.grpo.update import Updater
from alphamed_nemo.policy.checkpoint import folder, tensors
from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender
from alphamed_nemo.rollout.carriers.shared_memory import SharedMemorySender
from alphamed_nemo.rollout.client import RolloutClient
from tests.integration.held import ASKED, FOLDER, armed, hold, reach

BEFORE = [
    (folder, "load", "load"),
    (Updater, "update", "update"),
    (SharedMemorySender, "_update", "refit"),
    (BroadcastSender, "_send_off", "refit"),
    (ExperimentLoggers, "__call__", "metrics"),
    (folder, "_publish", "publish"),
    (folder, "prune", "saved"),
]
AFTER = [
    (RunRecord, "_write_samples", "samples"),
    (tensors.Writer, "write_data", "save"),
    (RolloutClient, "sample", "sampling"),
    (worker, "train", "done"),
]


class Board:
    """TensorBoard as Lightning's logger has it, without the seconds in which NeMo is imported."""

    def __init__(self, run: RunFolder) -> None:
        self.experiment = SummaryWriter(run.root / "tensorboard")

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)

    def save(self) -> None:
        self.experiment.flush()


def loggers(cfg: Config) -> list[ExperimentLoggers]:
    run = RunFolder.of(cfg)
    return [ExperimentLoggers([Board(run)], run.root)]


def stand_still(owner: Any, name: str, point: str, after: bool) -> None:
    real, who = getattr(owner, name), f"rank {os.environ['RANK']}"

    def held(*arguments: Any, **named: Any) -> Any:
        if not after:
            hold(point, who)
            return real(*arguments, **named)
        if point == "sampling":  # the fault comes while the server works on it
            reach(point, who)
        found = real(*arguments, **named)
        hold(point, who)
        return found

    setattr(owner, name, held)


def tell_of_stops() -> None:
    heard, who = worker.StopFlag._on_signal, f"rank {os.environ['RANK']}{ASKED}"

    def told(self: worker.StopFlag, number: int, frame: object) -> None:
        heard(self, number, frame)
        reach(armed(Path(os.environ[FOLDER])), who)

    worker.StopFlag._on_signal = told


def main(config_path: str) -> None:
    for points, after in ((BEFORE, False), (AFTER, True)):
        for owner, name, point in points:
            stand_still(owner, name, point, after)
    tell_of_stops()
    worker.make_loggers = loggers
    worker.main(config_path)


if __name__ == "__main__":
    main(sys.argv[1])
