"""The GRPO loop. Every rank runs it; rank 0 alone talks to the rollout and the reward server.

One step: rollouts → scores → groups with advantages → packed batches → update → refit (docs/architecture.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from statistics import fmean

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.grpo.collect import Collected, Collector, SamplingError
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.metrics import check_gates
from alphamed_nemo.grpo.record import RunRecord
from alphamed_nemo.grpo.refit_check import RefitCheck
from alphamed_nemo.grpo.rollout_metrics import rollout_metrics
from alphamed_nemo.grpo.update import Updater
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.rollout.connection import RolloutError, RolloutLost
from alphamed_nemo.rollout.refit import WeightTransfer

MAX_RECOVERIES = 3  # of one batch or one refit

log = logging.getLogger(__name__)


@dataclass
class Driver:
    """What only rank 0 has: the way to the servers and to the run folder."""

    collector: Collector
    transfer: WeightTransfer
    record: RunRecord


class Trainer:
    """Runs GRPO from the newest checkpoint (or the base model) to `grpo.steps`.

    Args:
        cfg: the run.
        policy: the policy, already on its ranks.
        exchange: rank 0's way to the other ranks.
        driver: on rank 0; None elsewhere.
        stop_requested: becomes true on a rank that was asked to stop; all ranks then save and stop together.
    """

    def __init__(
        self,
        cfg: Config,
        policy: MegatronPolicy,
        exchange: Exchange,
        driver: Driver | None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cfg = cfg
        self.policy = policy
        self.exchange = exchange
        self.driver = driver
        self.stop_requested = stop_requested
        self.updater = Updater(cfg, policy)
        self.checkpoints = RunFolder.of(cfg).checkpoints
        self.check = RefitCheck(cfg, policy, exchange, driver.collector.rollouts if driver is not None else None)
        self.refitted = False
        self.rewards: list[float] = []  # of the steps since the last checkpoint
        self.damaged = 0  # checkpoints that were passed over when resuming
        self.saved_in = 0.0  # seconds of the save after the last step
        self.ahead: Future[Collected] | None = None
        self.pool = ThreadPoolExecutor(max_workers=1) if driver is not None else None

    def run(self) -> bool:
        """Trains. Returns whether the run is complete (False: stopped early on request, after saving)."""
        step = self._resume()
        self._refit(step)
        while step < self.cfg.grpo.steps:
            started = time.perf_counter()
            timing: dict[str, float] = {}
            collected = self._collect(step)
            self._check_versions(collected, step)
            timing |= collected.seconds
            if self.driver is not None:
                self.driver.transfer.make_room()
            metrics = rollout_metrics(collected, self.cfg) | self.updater.update(collected.groups, timing)
            # Before anything of this update is kept: neither served nor saved when the gate closes.
            check_gates(metrics, self.cfg.grpo, step)
            self.rewards.append(metrics["reward/mean"])
            if self.damaged:
                metrics["damaged_checkpoints"], self.damaged = float(self.damaged), 0
            step += 1
            timing["refit"] = self._timed(lambda now=step: self._refit(now))
            stop = self.exchange.any(self.stop_requested())
            # The step is written down before it is saved: killed in between, it is done again, and never missing. So
            # the time of a save is in the step after it.
            timing["checkpoint"], self.saved_in = self.saved_in, 0.0
            timing["step"] = time.perf_counter() - started + timing["checkpoint"]
            if self.driver is not None:
                self.driver.record.write(step, metrics, timing, collected)
            if stop or step % self.cfg.grpo.save_every == 0 or step == self.cfg.grpo.steps:
                self.saved_in = self._timed(lambda now=step, c=collected: self._save(now, c))
            if stop:
                log.warning("asked to stop: saved after step %d", step)
                return step == self.cfg.grpo.steps
        return True

    def _collect(self, step: int) -> Collected:
        """This step's batch, on every rank.

        A rollout server that is lost meanwhile gets this step's weights when it is back, and the whole batch is
        sampled again with the same seeds: nothing of it had been trained on.
        """
        for recoveries in count():
            collected = self.exchange.from_rank0(lambda: self._sample(step))
            if isinstance(collected, Collected):
                return collected
            if recoveries == MAX_RECOVERIES:
                raise RolloutError(f"step {step}: given up after {recoveries} recoveries: {collected}")
            log.warning("step %d: the rollout server was lost; its batch is sampled again: %s", step, collected)
            self._refit(step, lost=True)

    def _sample(self, step: int) -> Collected | str:
        """Rank 0: this step's batch, or why the server was lost. One step off-policy, it was sampled while the last
        step trained."""
        collector, ahead = self.driver.collector, self.ahead
        self.ahead = None
        try:
            current = ahead.result() if ahead is not None else collector.collect(step)
        except RolloutLost as error:
            return str(error)
        oldest = min(rollout.weight_version for group in current.groups for rollout in group.rollouts)
        if oldest == 0 < step - self.cfg.grpo.staleness:
            collector.stream.restore(current.stream_before)
            return "a new one samples from the weights that it was started with"
        if self.cfg.grpo.staleness and step + 1 < self.cfg.grpo.steps:
            self.ahead = self.pool.submit(collector.collect, step + 1)
        return current

    def _check_versions(self, collected: Collected, step: int) -> None:
        """No rollout is trained on that weights older than `grpo.staleness` steps, or unknown ones, have sampled."""
        versions = {rollout.weight_version for group in collected.groups for rollout in group.rollouts}
        if min(versions) < step - self.cfg.grpo.staleness or max(versions) > step:
            raise SamplingError(
                f"step {step}: rollouts were sampled by weight versions {sorted(versions)}, expected "
                f"{step - self.cfg.grpo.staleness} to {step}; the rollout server missed a refit or was restarted"
            )

    def _refit(self, version: int, lost: bool = False) -> None:
        """Streams the weights into the rollout server under `version`. Every rank takes part.

        Args:
            lost: the server was lost; what is started in its place is waited for.
        """
        for recoveries in count():
            problem = self._try_refit(version, wait=lost or recoveries > 0)
            problem = self.exchange.from_rank0(lambda found=problem: found)
            if not problem and (self.cfg.rollout.check_every_refit or not self.refitted):
                problem = self.check.problem(version)
            if not problem:
                break
            if recoveries == MAX_RECOVERIES:
                raise RolloutError(f"refit to version {version}: given up after {recoveries} recoveries: {problem}")
            log.warning("refit to version %d: the rollout server was lost; once more: %s", version, problem)
        self.refitted = True

    def _try_refit(self, version: int, wait: bool) -> str:
        """Returns why the server was lost; nothing where it now serves the weights."""
        weights, problem = self.policy.hf_weights(), ""
        if self.driver is not None:
            if self.ahead is not None:
                # Generation under way ends before its weights change, so that each rollout has one version.
                self.ahead.exception()
            try:
                if wait:
                    self.driver.transfer.connection.wait_ready(self.cfg.run.component_timeout_s)
                self.driver.transfer.refit(weights, version)
            except RolloutLost as error:
                problem = str(error)
        for _ in weights:  # gathering them takes every rank, to the last of them
            pass
        return problem

    def _resume(self) -> int:
        newest = self.exchange.from_rank0(lambda: checkpoint.latest(self.checkpoints) if self.cfg.run.resume else None)
        if newest is None:
            if self.driver is not None:
                self.driver.record.rewind(0)
            return 0
        state = checkpoint.load(self.policy, newest)
        if self.driver is not None:
            self.driver.collector.stream.restore(state["stream"])
            self.driver.record.rewind(state["step"])
            self.damaged = checkpoint.passed_over(self.checkpoints, newest)
        log.info("resumed from %s at step %d", newest, state["step"])
        return state["step"]

    def _save(self, step: int, collected: Collected) -> None:
        stream = self.exchange.from_rank0(lambda: collected.stream)
        state = {"step": step, "stream": stream, "reward": fmean(self.rewards)}
        checkpoint.save(self.policy, self.checkpoints / f"step_{step}", state)
        self.rewards.clear()
        if self.driver is not None:
            checkpoint.prune(self.checkpoints, self.cfg.grpo.keep_checkpoints)

    @staticmethod
    def _timed(action: Callable[[], None]) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started
