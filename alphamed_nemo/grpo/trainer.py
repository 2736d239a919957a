"""The GRPO loop. Every rank runs it; rank 0 alone talks to the rollout servers and the reward server.

One step, as in the paper: sample a group of responses to each question, score each by whether its final answer is
correct, turn the scores of a group into advantages, update the policy, and sample the next groups from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.families import dimensions
from alphamed_nemo.grpo.checkpoints import Checkpoints
from alphamed_nemo.grpo.clock import StepClock
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.mismatch import Gates
from alphamed_nemo.grpo.profiling import profiled
from alphamed_nemo.grpo.record import RunRecord
from alphamed_nemo.grpo.share import Share, shares
from alphamed_nemo.grpo.update import Updater
from alphamed_nemo.grpo.validation import Validation, Verdict
from alphamed_nemo.policy.finite import NotFiniteError
from alphamed_nemo.policy.policy import MegatronPolicy

log = logging.getLogger(__name__)


class Rollouts(Protocol):
    """Batches, and weights to sample the next ones from. See `RolloutPlane`; every method is collective."""

    def batch(self, step: int) -> Collected | None: ...

    def make_room(self) -> None: ...

    def refit(self, version: int) -> None: ...

    def restore(self, stream: dict[str, Any]) -> None: ...


class Trainer:
    """Runs GRPO from the newest checkpoint (or the base model) to `grpo.steps`.

    Args:
        cfg: the run.
        policy: the policy, already on its ranks.
        exchange: rank 0's way to the other ranks.
        rollouts: where batches come from and weights go to.
        record: rank 0's way to the run folder; None elsewhere.
        validation: where `validate.every` asks for it.
        stop_requested: becomes true on a rank that was asked to stop; all ranks then save and stop together.
    """

    def __init__(
        self,
        cfg: Config,
        policy: MegatronPolicy,
        exchange: Exchange,
        rollouts: Rollouts,
        record: RunRecord | None,
        validation: Validation | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cfg = cfg
        self.policy = policy
        self.exchange = exchange
        self.rollouts = rollouts
        self.record = record
        self.stop_requested = stop_requested
        self.share_prompts = policy.is_local if cfg.grpo.share_prompts is None else cfg.grpo.share_prompts
        self.updater = Updater(cfg, policy)
        self.gates = Gates(cfg, policy, exchange)
        self.checkpoints = Checkpoints(cfg, policy, exchange)
        self.validation = validation

    def run(self) -> bool:
        """Trains. Returns whether the run is complete (False: stopped early on request, after saving).

        Raises:
            NotFiniteError: a loss, a gradient or a weight is NaN or infinite. Nothing of that step is kept or served.
        """
        grpo = self.cfg.grpo
        step, damaged = self._resume()
        verdict = self.validation.resume(step) if self.validation else Verdict()
        with self._finite("start"):
            self.policy.check_weights()
        self.rollouts.refit(step)
        if verdict.accuracy is None:
            verdict = self._validate(step)
        clock = StepClock()
        while step < grpo.steps and not verdict.stop:
            profiling = self.cfg.run.profile_steps if self.record is not None else []
            with profiled(step + 1, profiling, RunFolder.of(self.cfg).traces):
                batch = self.rollouts.batch(step)  # rank 0: questions → rollouts → scores → groups with advantages
                share = self._share(batch)
                self.rollouts.make_room()
                with self._finite(f"step {step + 1}, update"):
                    metrics = share.metrics | self.updater.update(share, clock, step)
                metrics |= self.gates.check(metrics, share.sample, step)  # what fails them is neither served nor saved
                step += 1
                with clock.phase("refit"):
                    self.rollouts.refit(step)

            self.checkpoints.rewards.append(metrics["reward/mean"])
            stop = self.exchange.any(self.stop_requested())
            if self.record is not None and batch is not None:
                damage = {"damaged_checkpoints": float(damaged)} if damaged else {}
                self.record.write(step, metrics | damage, batch.seconds | clock.stop(), batch)
            verdict = Verdict() if stop else self._validate(step)  # whoever asks for a stop gives little time
            clock, damaged = StepClock(), 0
            if stop or verdict.stop or step % grpo.save_every == 0 or step == grpo.steps:
                with clock.phase("checkpoint"):
                    self.checkpoints.save(step, batch.stream if batch is not None else {}, verdict.accuracy)
            if stop:
                log.warning("asked to stop: saved after step %d", step)
                return step == grpo.steps
        return True

    def _validate(self, step: int) -> Verdict:
        return self.validation.after(step) if self.validation else Verdict()

    def _share(self, batch: Collected | None) -> Share:
        """What this rank's data-parallel rank gets of rank 0's batch."""

        def of_each() -> list[Share]:
            assert batch is not None, "rank 0 has it"
            return shares(batch, self.cfg, dimensions(self.policy.hf_config), self.share_prompts)

        return self.exchange.share(of_each)

    def _resume(self) -> tuple[int, int]:
        """Steps done, and damaged checkpoints that were passed over."""
        resumed = self.checkpoints.resume()
        if resumed.stream is not None:
            self.rollouts.restore(resumed.stream)
        if self.record is not None:
            self.record.rewind(resumed.step)
        return resumed.step, resumed.damaged

    @contextmanager
    def _finite(self, when: str) -> Iterator[None]:
        """What is not finite ends the run on every rank with one line: when, what, where to go on, what to try."""
        try:
            yield
        except NotFiniteError as error:
            good = self.checkpoints.last_good or f"none yet, the run started from {self.cfg.model.path}"
            raise NotFiniteError(
                f"{when}: {error}. Nothing of it is kept or served. Last good checkpoint: {good}. Start the run again "
                "to resume there, with a lower optim.lr, optim.clip_grad and optim.eps above 0, and betas below 1"
            ) from error
