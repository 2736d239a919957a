"""The rollout servers as the loop sees them: each step's batch, and refits, whatever is lost meanwhile.

A server that is lost is started again by the launcher and serves the weights that it was started from. Its requests go
to the others (rollout/pool.py), and the next refit that finds it well takes it in again. Where none is left, the first
one that is back gets this step's weights, and the whole batch is sampled again with the same seeds: nothing of it had
been trained on. Every rank takes part in a refit, so what rank 0 learns of a loss goes to all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import torch

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.collect import Collected, Collector, SamplingError
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.refit_check import RefitCheck
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights.stream import of_rank0
from alphamed_nemo.rollout.carriers.ipc import Lockstep, share_buckets
from alphamed_nemo.rollout.connection import Lost, RolloutError, RolloutLost
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.vllm_command import resolve_transfer

MAX_RECOVERIES = 3  # of one batch, one validation or one refit

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Servers:
    """Rank 0's ways to the servers."""

    collector: Collector
    transfer: WeightTransfer


class RolloutPlane:
    """Batches from the servers and weights to them. Every method but `close` is collective.

    Args:
        cfg: the run.
        policy: whose weights the servers sample from.
        exchange: rank 0's way to the other ranks.
        servers: on rank 0; None elsewhere.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange, servers: Servers | None) -> None:
        self.cfg, self.policy, self.exchange, self.servers = cfg, policy, exchange, servers
        self.check = RefitCheck(cfg, policy, exchange, servers.collector.rollouts if servers is not None else None)
        cuda = torch.cuda.is_available()
        shared = resolve_transfer(cfg.rollout.transfer, cuda, cfg.rollout.placement) == "ipc"
        self.lockstep = Lockstep(exchange.group) if shared else None  # every rank for the engine on its own GPU
        self.checked = False
        self.offloads = cfg.rollout.offloads(cuda)
        self.current: Collected | None = None  # rank 0: this step's batch
        self.ahead: Future[Collected] | None = None  # rank 0: the next batch, which is sampled while this one trains
        self.pool = ThreadPoolExecutor(max_workers=1) if servers is not None else None

    def batch(self, step: int) -> Collected | None:
        """This step's groups, on rank 0; None elsewhere.

        Raises:
            RolloutError: all servers were lost, too often.
            SamplingError: a rollout was sampled by weights that this step does not allow.
        """
        self.served(step, lambda: self._sample(step), "its batch is sampled again")
        return self.current

    def served(self, step: int, ask: Callable[[], T], again: str) -> T:
        """What rank 0 gets from the servers, on every rank.

        Args:
            step: whose weights they serve, and are given again where all servers were lost over it.
            ask: asks them; called anew then.
            again: what is done again, for the log.

        Raises:
            RolloutError: all servers were lost, too often; and whatever `ask` raises.
        """

        def attempt() -> T | Lost:
            try:
                return ask()
            except RolloutLost as error:
                return Lost(str(error))

        for recoveries in count():
            answer = self.exchange.from_rank0(attempt)
            if not isinstance(answer, Lost):
                return answer
            if recoveries == MAX_RECOVERIES:
                raise RolloutError(f"step {step}: given up after {recoveries} recoveries: {answer.reason}")
            log.warning("step %d: no rollout server is left; %s: %s", step, again, answer.reason)
            self.refit(step, lost=True)
        raise AssertionError("unreachable")

    def restore(self, stream: dict[str, Any]) -> None:
        """The order of the questions, as a checkpoint has it."""
        if self.servers is not None:
            others = "grpo.questions" in self.cfg.run.accept_changes
            self.servers.collector.stream.restore(stream, drop_unknown=others)

    def make_room(self) -> None:
        """Before an update: servers on the trainer's devices give their memory back, then the trainer takes its own."""
        if self.lockstep is not None:  # even where the trainer has kept its own: activations need the room, too
            self.exchange.from_rank0(self._sleep)
        if self.offloads:
            assert self.policy.offload is not None, "a policy that is trained"
            self.policy.offload.take()

    def refit(self, version: int, lost: bool = False) -> None:
        """Streams the policy's weights into the servers under `version`.

        Args:
            version: 0 for the base model, n after step n.
            lost: no server is left; the first that is started in their place is waited for.

        Raises:
            RolloutError: a server refused them or holds others afterwards, or all were lost, too often.
        """
        if self.offloads:
            assert self.policy.offload is not None, "a policy that is trained"
            self.policy.offload.give_back()
            self.exchange.any(False)  # no server takes memory before every rank has given it back
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
            log.warning("refit to version %d: it was cut off; trying again: %s", version, problem.reason)
        self.checked = True

    def _sleep(self) -> None:
        assert self.servers is not None, "rank 0 has the servers"
        self.servers.transfer.make_room(self.cfg.run.component_timeout_s)

    def _sample(self, step: int) -> None:
        """Rank 0: makes this step's batch the current one. One step off-policy, it was sampled before.

        Raises:
            RolloutLost: all servers were lost.
        """
        assert self.servers is not None and self.pool is not None
        collector, staleness = self.servers.collector, self.cfg.grpo.staleness
        ahead, self.ahead = self.ahead, None
        current = ahead.result() if ahead is not None else collector.collect(step)
        if staleness and step + 1 < self.cfg.grpo.steps:
            self.ahead = self.pool.submit(collector.collect, step + 1)
        self._check_versions(current, step)
        self.current = current

    def _check_versions(self, collected: Collected, step: int) -> None:
        """No rollout is trained on that weights older than `grpo.staleness` steps, or unknown ones, have sampled."""
        found, oldest = versions(collected), step - self.cfg.grpo.staleness
        if min(found) < oldest or max(found) > step:
            raise SamplingError(
                f"step {step}: rollouts were sampled by weight versions {sorted(found)}, expected {oldest} to {step}; "
                "a rollout server missed a refit or was restarted"
            )

    def _try_refit(self, version: int, wait: bool) -> Lost | None:
        weights, problem = self.policy.hf_weights(everywhere=self.lockstep is not None, copies=False), None
        if self.servers is None:
            if self.lockstep is not None:
                share_buckets(of_rank0(weights), self.lockstep)
        else:
            if self.ahead is not None:
                # Generation under way ends before its weights change, so that each rollout has one version.
                self.ahead.exception()
            try:
                if wait:
                    self.servers.transfer.wait_ready(self.cfg.run.component_timeout_s)
                self.servers.transfer.refit(of_rank0(weights), version)
                self.servers.collector.rollouts.version = version
            except RolloutLost as error:
                problem = Lost(str(error))
            if self.lockstep is not None:
                self.lockstep.ask(False)
        for _ in weights:  # gathering them takes every rank, to the last of them
            pass
        return problem


def versions(collected: Collected) -> set[int]:
    """Weight versions that sampled a batch."""
    return {rollout.weight_version for group in collected.groups for rollout in group.rollouts}
