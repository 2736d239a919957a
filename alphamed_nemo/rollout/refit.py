"""Refit: give the rollout servers the policy's new weights. Used on rank 0 of the trainer.

The choreography is vLLM's own: pause (running requests are kept, the prefix cache is dropped: its keys and values
are the old weights'), start, update piece by piece, finish with the version, resume; each of them for all servers at
once. What carries the tensors differs: shared memory or gloo on CPU hosts, NCCL or CUDA IPC on GPUs (carriers/).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender
from alphamed_nemo.rollout.carriers.gloo import GlooTransport
from alphamed_nemo.rollout.carriers.ipc import IpcSender, Lockstep
from alphamed_nemo.rollout.carriers.nccl import NcclTransport
from alphamed_nemo.rollout.carriers.sender import Sender, Weights
from alphamed_nemo.rollout.carriers.shared_memory import SharedMemorySender
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Arrivals, Manifest, dtype_name
from alphamed_nemo.rollout.vllm_command import resolve_transfer

__all__ = ["RefitStats", "RolloutError", "WeightTransfer"]

POLL_EVERY_S = 0.5

log = logging.getLogger(__name__)


@dataclass
class RefitStats:
    """One refit: wall seconds from pause to resume, and what was sent."""

    seconds: float
    bytes: int
    tensors: int
    version: int


class WeightTransfer:
    """Refits the rollout servers of a run.

    Args:
        connections: one for each server; shared with whoever samples from them.
        cfg: `transfer` picks the carrier.
        manifest: what a complete update carries. Every weight is compared with it before it is sent, and the engine
            compares the update with the folder that it was started from.
        cuda: whether trainer and servers have CUDA devices; None: ask torch.
        lockstep: the ranks that share their memory with the servers, for CUDA IPC; None: rank 0 alone.

    Raises:
        ValueError: `rollout.transfer` cannot work here.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        cfg: RolloutConfig,
        manifest: Manifest,
        cuda: bool | None = None,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.connections = list(connections)
        self.manifest = manifest
        transfer = resolve_transfer(cfg.transfer, torch.cuda.is_available() if cuda is None else cuda, cfg.placement)
        self.colocated = transfer == "ipc"
        self.asleep = self.colocated  # the trainer's start has put them to sleep
        self.sender: Sender
        if transfer == "shm":
            self.sender = SharedMemorySender()
        elif transfer == "ipc":
            self.sender = IpcSender(manifest, lockstep or Lockstep(None))
        else:
            self.sender = BroadcastSender(manifest, GlooTransport() if transfer == "gloo" else NcclTransport())

    def make_room(self, within_s: float) -> None:
        """Before the trainer works on GPUs that it shares with the servers, which then sleep. Nothing where they have
        GPUs of their own.

        Args, raises: as `put_to_sleep`.
        """
        if self.colocated:
            put_to_sleep(self.connections, within_s)
            self.asleep = True

    def _wake(self, receivers: Receivers, tag: str) -> None:
        def wake(connection: Connection) -> None:
            waiting_for = f"the engine to take memory for its {tag}"
            connection.call("POST", "/wake_up", waiting_for, params={"tags": tag})

        if self.asleep:  # one that was started again is awake, and stays so
            receivers.each(wake)

    def wait_ready(self, within_s: float) -> None:
        """Waits until a server answers, one that is started meanwhile included.

        Raises:
            RolloutLost: none does within the time.
        """
        deadline = time.monotonic() + within_s
        while not any(connection.is_healthy() for connection in self.connections):
            if time.monotonic() > deadline:
                servers = ", ".join(connection.url for connection in self.connections)
                raise RolloutLost(f"waited for a rollout server for {within_s:g} s: none is healthy of {servers}")
            time.sleep(POLL_EVERY_S)

    def refit(self, weights: Weights, version: int) -> RefitStats:
        """Send a whole policy to all servers and serve from it; to those that were lost, too, if they are back.

        Args:
            weights: (HF name, full tensor) of every weight, in any order, each once; tied heads are not sent.
            version: of these weights; what `weight_version()` and every later Rollout carry.

        Raises:
            RolloutLost: no server is left. One that is lost meanwhile while others are well is left out.
            RolloutError: the update was refused or failed. The old weights and version serve on, until the first
                weight has arrived with CUDA carriers, which load as they receive, and until the first of several
                servers has loaded with shared memory. After that the servers stay paused until another refit succeeds
                or they are restarted, and never sample from a part of an update.
        """
        started = time.perf_counter()
        receivers = self._receivers()
        sent = _Checked(weights, self.manifest)
        receivers.call("POST", "/pause", "the engine to pause", params={"mode": "keep", "clear_cache": "true"})
        try:
            self._wake(receivers, "weights")
            self.sender.open(receivers)
            receivers.each(self._start)
            try:
                size = self.sender.send(iter(sent))
                finish = {"weight_version": str(version)}
                waiting_for = "a weight update to finish"
                receivers.call("POST", "/finish_weight_update", waiting_for, retry=False, json=finish)
                self.sender.partial = False
            except BaseException:
                with suppress(RolloutError):  # the error that led here is the one to report
                    receivers.each(self.sender.abort)
                raise
        finally:
            self._wake(receivers, "kv_cache")
            self.asleep = False
            if not self.sender.partial:
                receivers.call("POST", "/resume", "the engine to resume")
        for connection, served in receivers.each(weight_version).items():
            if served != version:
                raise RolloutError(
                    f"refit to version {version}, but rollout server {connection.url} reports version {served}"
                )
        return RefitStats(time.perf_counter() - started, size, sent.count, version)

    def _receivers(self) -> Receivers:
        """The servers that this refit reaches: it makes any of them right, whenever it was started."""
        found = [connection for connection in self.connections if not connection.lost or connection.is_healthy()]
        if not found:
            raise RolloutLost("; ".join(connection.lost for connection in self.connections))
        for connection in found:
            connection.rejoin(anew=True)
        return Receivers(found)

    def _start(self, connection: Connection) -> None:
        """Start an update; where a trainer that died left one open, end that first."""
        start = ("POST", "/start_weight_update", "a weight update to start")
        try:
            connection.call(*start, retry=False)
        except RolloutError as error:
            if "already active" not in str(error):
                raise
            with suppress(RolloutError):
                self.sender.abort(connection)
            connection.call(*start, retry=False)

    def close(self) -> None:
        self.sender.close()


def put_to_sleep(connections: Sequence[Connection], within_s: float) -> None:
    """Lets servers free the GPU memory of their weights, which the next refit replaces, and of their KV cache.

    One that was lost and is being started again would take memory that the trainer is about to take: it is waited for.

    Args:
        within_s: limit for a server that is being started.

    Raises:
        RolloutLost: one was not up in time.
    """
    deadline, awake = time.monotonic() + within_s, list(connections)
    while awake:
        asleep = Receivers([connection for connection in awake if not connection.lost])
        with suppress(RolloutLost):  # one that is gone has freed it, and its successor is waited for
            asleep.call("POST", "/sleep", "the engine to free its memory", params={"level": "2"})
        awake = [connection for connection in awake if connection.lost]
        for connection in awake:
            while not connection.is_healthy():
                if time.monotonic() > deadline:
                    raise RolloutLost(f"before the update: {connection.lost}; {connection.url} is not back")
                time.sleep(POLL_EVERY_S)
            connection.rejoin(anew=True)


class _Checked:
    """The weights as they pass, each compared with the manifest before it is sent, and counted."""

    def __init__(self, weights: Weights, manifest: Manifest) -> None:
        self.weights, self.manifest = weights, manifest
        self.count = 0

    def __iter__(self) -> Weights:
        arrivals = Arrivals(self.manifest)
        for name, tensor in self.weights:
            with _refusing():
                arrivals.take(name, tuple(tensor.shape), dtype_name(tensor))
            self.count += 1
            yield name, tensor
        with _refusing():
            arrivals.finish()


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RolloutError(str(error)) from None
