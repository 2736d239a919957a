"""The GRPO loop. Every rank runs it; rank 0 alone talks to the rollout and the reward server.

One step, as in the paper: sample a group of responses to each question, score each by whether its final answer is
correct, turn the scores of a group into advantages, update the policy, and sample the next groups from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.checkpoints import Checkpoints
from alphamed_nemo.grpo.clock import StepClock
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.mismatch import Gates
from alphamed_nemo.grpo.record import RunRecord
from alphamed_nemo.grpo.recovery import RolloutPlane, Servers
from alphamed_nemo.grpo.rollout_metrics import rollout_metrics
from alphamed_nemo.grpo.update import Updater
from alphamed_nemo.policy.finite import NotFiniteError
from alphamed_nemo.policy.policy import MegatronPolicy

log = logging.getLogger(__name__)


class Trainer:
    """Runs GRPO from the newest checkpoint (or the base model) to `grpo.steps`.

    Args:
        cfg: the run.
        policy: the policy, already on its ranks.
        exchange: rank 0's way to the other ranks.
        servers, record: rank 0's way to the servers and to the run folder; None elsewhere.
        stop_requested: becomes true on a rank that was asked to stop; all ranks then save and stop together.
    """

    def __init__(
        self,
        cfg: Config,
        policy: MegatronPolicy,
        exchange: Exchange,
        servers: Servers | None,
        record: RunRecord | None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cfg = cfg
        self.policy = policy
        self.exchange = exchange
        self.servers = servers
        self.record = record
        self.stop_requested = stop_requested
        self.rollouts = RolloutPlane(cfg, policy, exchange, servers)
        self.updater = Updater(cfg, policy)
        self.gates = Gates(cfg, policy, exchange)
        self.checkpoints = Checkpoints(cfg, policy, exchange)

    def run(self) -> bool:
        """Trains. Returns whether the run is complete (False: stopped early on request, after saving).

        Raises:
            NotFiniteError: a loss, a gradient or a weight is NaN or infinite. Nothing of that step is kept or served.
        """
        grpo = self.cfg.grpo
        step, damaged = self._resume()
        with self._finite("start"):
            self.policy.check_weights()
        self.rollouts.refit(step)
        clock = StepClock()
        while step < grpo.steps:
            batch = self.rollouts.batch(step)  # questions → rollouts → scores → groups with advantages
            self.rollouts.make_room()
            with self._finite(f"step {step + 1}, update"):
                metrics = rollout_metrics(batch, self.cfg) | self.updater.update(batch.groups, clock)
            metrics |= self.gates.check(metrics, batch.groups, step)  # what fails them is neither served nor saved
            step += 1
            with clock.phase("refit"):
                self.rollouts.refit(step)

            self.checkpoints.rewards.append(metrics["reward/mean"])
            stop = self.exchange.any(self.stop_requested())
            if self.record is not None:
                damage = {"damaged_checkpoints": float(damaged)} if damaged else {}
                self.record.write(step, metrics | damage, batch.seconds | clock.stop(), batch)
            clock, damaged = StepClock(), 0
            if stop or step % grpo.save_every == 0 or step == grpo.steps:
                with clock.phase("checkpoint"):
                    self.checkpoints.save(step, batch.stream)
            if stop:
                log.warning("asked to stop: saved after step %d", step)
                return step == grpo.steps
        return True

    def _resume(self) -> tuple[int, int]:
        """Steps done, and damaged checkpoints that were passed over."""
        resumed = self.checkpoints.resume()
        if self.servers is not None and resumed.stream is not None:
            others = "grpo.questions" in self.cfg.run.accept_changes
            self.servers.collector.stream.restore(resumed.stream, drop_unknown=others)
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
