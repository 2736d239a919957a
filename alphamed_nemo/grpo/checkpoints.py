"""What a run keeps of itself: checkpoints, and which of them it resumes from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import STATE, RunFolder, by_step, step_name
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.identity import KEY, compare, identity
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
    """The checkpoints of one run. Its making and both methods are collective."""

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange) -> None:
        self.cfg, self.policy, self.exchange = cfg, policy, exchange
        self.folder = RunFolder.of(cfg).checkpoints
        self.identity = exchange.from_rank0(lambda: identity(cfg, policy.tokenizer))
        self.rewards: list[float] = []  # mean rewards of the steps since the last one
        self.resumed_from: Path | None = None
        self.last_good: Path | None = None  # the one just saved, or resumed from
        self.damaged: set[Path] = set()

    def resume(self) -> Resumed:
        """Loads the newest that is whole; the base model's weights stay where there is none.

        Raises:
            ValueError: it is of another run, by the settings or the contents that it records.
        """
        newest = self._newest()
        if newest is None:
            return Resumed()
        state = checkpoint.load(self.policy, newest)
        try:
            resumed = Resumed(int(state["step"]), dict(state["stream"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{newest}: {STATE} is not a run's: {type(error).__name__} {error}") from error
        log.info("resumed from %s at step %d", newest, resumed.step)
        self._keep_schedule(state)
        self.last_good = self.resumed_from = newest
        self.damaged = set(checkpoint.passed_over(self.folder, newest))
        return replace(resumed, damaged=len(self.damaged))

    def save(self, step: int, stream: dict, accuracy: float | None = None) -> None:
        """Writes one, and removes those that `grpo.keep_checkpoints` does not keep.

        Args:
            step: steps that are done.
            stream: rank 0's state of the question order after them.
            accuracy: of the validation after this step, if there was one.
        """
        stream = self.exchange.from_rank0(lambda: stream)
        saved, state = self.folder / step_name(step), {"step": step, "stream": stream, KEY: self.identity}
        if self.cfg.grpo.has_comparable_rewards:
            state["reward"] = fmean(self.rewards)
        if accuracy is not None:
            state["validation"] = accuracy
        checkpoint.save(self.policy, saved, state)
        self.rewards.clear()
        self.last_good = saved
        self.damaged.discard(saved)
        if self.exchange.rank == 0:
            needed = [path for path in (self.resumed_from, saved) if path is not None]
            checkpoint.prune(self.folder, self.cfg.grpo.keep_checkpoints, needed, self.damaged)

    def _keep_schedule(self, state: dict) -> None:
        """Where a step makes another number of updates than before, the updates made say nothing of the steps left."""
        grpo, names = self.cfg.grpo, ("grpo.updates_per_batch", "grpo.epochs")
        now = self.identity["settings"]
        before = state.get(KEY, {}).get("settings", now)
        if any(before.get(name, now[name]) != now[name] for name in names):
            self.policy.end_schedule_after((grpo.steps - state["step"]) * grpo.updates_per_batch * grpo.epochs)

    def _newest(self) -> Path | None:
        """The checkpoint to resume from, once it is known to be of this run."""
        if not self.cfg.run.resume:
            self.exchange.from_rank0(self._refuse_earlier_run)
            return None
        newest = checkpoint.latest(self.folder)
        if newest is not None:
            self.exchange.from_rank0(lambda: self._compare(newest))
        return newest

    def _refuse_earlier_run(self) -> None:
        if by_step(self.folder):
            raise ValueError(
                f"run.resume=false: {self.folder} holds checkpoints of an earlier run; move {self.folder.parent} "
                "aside, as the recipe train_grpo does, or set another run.name"
            )

    def _compare(self, newest: Path) -> None:
        stored = checkpoint.read_state(newest).get(KEY)
        compare(stored, self.identity, self.cfg.run.accept_changes, newest)
