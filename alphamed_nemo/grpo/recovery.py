"""The rollout server as the loop sees it: each step's batch, and refits, whatever is lost meanwhile.

A server that is lost is started again by the launcher and serves the weights that it was started from. It gets this
step's weights when it is back, and the whole batch is sampled again with the same seeds: nothing of it had been trained
on. Every rank takes part in a refit, so what rank 0 learns of a loss goes to all of them.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.collect import Collected, Collector, SamplingError
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.refit_check import RefitCheck
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights.stream import of_rank0
from alphamed_nemo.rollout.connection import Lost, RolloutError, RolloutLost
from alphamed_nemo.rollout.refit import WeightTransfer

MAX_RECOVERIES = 3  # of one batch or one refit
BASE = 0  # version of the weights that a server starts with

log = logging.getLogger(__name__)


@dataclass
class Servers:
    """Rank 0's ways to the servers."""

    collector: Collector
    transfer: WeightTransfer


class RolloutPlane:
    """Batches from the server and weights to it. Every method but `close` is collective.

    Args:
        cfg: the run.
        policy: whose weights the server samples from.
        exchange: rank 0's way to the other ranks.
        servers: on rank 0; None elsewhere.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange, servers: Servers | None) -> None:
        self.cfg, self.policy, self.exchange, self.servers = cfg, policy, exchange, servers
        self.check = RefitCheck(cfg, policy, exchange, servers.collector.rollouts if servers is not None else None)
        self.checked = False
        self.ahead: Future[Collected] | None = None  # rank 0: the next batch, which is sampled while this one trains
        self.pool = ThreadPoolExecutor(max_workers=1) if servers is not None else None

    def batch(self, step: int) -> Collected:
        """This step's groups, on every rank.

        Raises:
            RolloutError: the server was lost too often.
            SamplingError: a rollout was sampled by weights that this step does not allow.
        """
        for recoveries in count():
            found = self.exchange.from_rank0(lambda: self._sample(step))
            if isinstance(found, Collected):
                self._check_versions(found, step)
                return found
            if recoveries == MAX_RECOVERIES:
                raise RolloutError(f"step {step}: given up after {recoveries} recoveries: {found.reason}")
            log.warning("step %d: the rollout server was lost; its batch is sampled again: %s", step, found.reason)
            self.refit(step, lost=True)
        raise AssertionError("unreachable")

    def make_room(self) -> None:
        """Before an update: a server that shares the trainer's GPU gives its memory back."""
        if self.servers is not None:
            self.servers.transfer.make_room()

    def refit(self, version: int, lost: bool = False) -> None:
        """Streams the policy's weights into the server under `version`.

        Args:
            version: 0 for the base model, n after step n.
            lost: the server was lost; what is started in its place is waited for.

        Raises:
            RolloutError: the server refused them, holds others afterwards, or was lost too often.
        """
        for recoveries in count():
            problem = self._try_refit(version, wait=lost or recoveries > 0)
            problem = self.exchange.from_rank0(lambda found=problem: found)
            if problem is None and (self.cfg.rollout.check_every_refit or not self.checked):
                problem = self.check.compare(version)
            if problem is None:
                break
            if recoveries == MAX_RECOVERIES:
                reason = f"given up after {recoveries} recoveries: {problem.reason}"
                raise RolloutError(f"refit to version {version}: {reason}")
            log.warning("refit to version %d: the server was lost; trying again: %s", version, problem.reason)
        self.checked = True

    def _sample(self, step: int) -> Collected | Lost:
        """Rank 0: this step's batch. One step off-policy, it was sampled while the last step trained."""
        assert self.servers is not None and self.pool is not None
        collector, staleness = self.servers.collector, self.cfg.grpo.staleness
        ahead, self.ahead = self.ahead, None
        try:
            current = ahead.result() if ahead is not None else collector.collect(step)
        except RolloutLost as error:
            return Lost(str(error))
        restarted = min(versions(current)) == BASE and step - staleness > BASE
        if restarted:
            collector.stream.restore(current.stream_before)
            return Lost("a new one samples from the weights that it was started with")
        if staleness and step + 1 < self.cfg.grpo.steps:
            self.ahead = self.pool.submit(collector.collect, step + 1)
        return current

    def _check_versions(self, collected: Collected, step: int) -> None:
        """No rollout is trained on that weights older than `grpo.staleness` steps, or unknown ones, have sampled."""
        found, oldest = versions(collected), step - self.cfg.grpo.staleness
        if min(found) < oldest or max(found) > step:
            raise SamplingError(
                f"step {step}: rollouts were sampled by weight versions {sorted(found)}, expected {oldest} to {step}; "
                "the rollout server missed a refit or was restarted"
            )

    def _try_refit(self, version: int, wait: bool) -> Lost | None:
        weights, problem = self.policy.hf_weights(), None
        if self.servers is not None:
            if self.ahead is not None:
                # Generation under way ends before its weights change, so that each rollout has one version.
                self.ahead.exception()
            try:
                if wait:
                    self.servers.transfer.connection.wait_ready(self.cfg.run.component_timeout_s)
                self.servers.transfer.refit(of_rank0(weights), version)
            except RolloutLost as error:
                problem = Lost(str(error))
        for _ in weights:  # gathering them takes every rank, to the last of them
            pass
        return problem


def versions(collected: Collected) -> set[int]:
    """Weight versions that sampled a batch."""
    return {rollout.weight_version for group in collected.groups for rollout in group.rollouts}
