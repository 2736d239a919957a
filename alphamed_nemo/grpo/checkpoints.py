"""What a run keeps of itself: checkpoints, and which of them it resumes from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.policy import MegatronPolicy

log = logging.getLogger(__name__)


@dataclass
class Resumed:
    """Where training continues.

    Attributes:
        step: steps that are done.
        stream: state of the question order; empty at the start.
        damaged: newer checkpoints that are not whole and were passed over.
    """

    step: int = 0
    stream: dict | None = None
    damaged: int = 0


class Checkpoints:
    """The checkpoints of one run. Both methods are collective."""

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange) -> None:
        self.cfg, self.policy, self.exchange = cfg, policy, exchange
        self.folder = RunFolder.of(cfg).checkpoints
        self.rewards: list[float] = []  # mean rewards of the steps since the last one
        self.resumed_from: Path | None = None
        self.last_good: Path | None = None  # the one just saved, or resumed from
        self.damaged: set[Path] = set()

    def resume(self) -> Resumed:
        """Loads the newest that is whole; the base model's weights stay where there is none."""
        newest = checkpoint.latest(self.folder) if self.cfg.run.resume else None
        if newest is None:
            return Resumed()
        state = checkpoint.load(self.policy, newest)
        try:
            resumed = Resumed(int(state["step"]), dict(state["stream"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{newest}: {checkpoint.STATE} is not a run's: {type(error).__name__} {error}"
            ) from error
        log.info("resumed from %s at step %d", newest, resumed.step)
        self.last_good = self.resumed_from = newest
        self.damaged = set(checkpoint.passed_over(self.folder, newest))
        return replace(resumed, damaged=len(self.damaged))

    def save(self, step: int, stream: dict) -> None:
        """Writes one, and removes those that `grpo.keep_checkpoints` does not keep.

        Args:
            step: steps that are done.
            stream: rank 0's state of the question order after them.
        """
        stream = self.exchange.from_rank0(lambda: stream)
        saved, state = self.folder / f"step_{step}", {"step": step, "stream": stream}
        if self.cfg.grpo.has_comparable_rewards:
            state["reward"] = fmean(self.rewards)
        checkpoint.save(self.policy, saved, state)
        self.rewards.clear()
        self.last_good = saved
        self.damaged.discard(saved)
        if self.exchange.rank == 0:
            needed = [path for path in (self.resumed_from, saved) if path is not None]
            checkpoint.prune(self.folder, self.cfg.grpo.keep_checkpoints, needed, self.damaged)
