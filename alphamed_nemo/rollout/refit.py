"""Refit: give the rollout engine the policy's new weights. Used on rank 0 of the trainer.

The choreography is vLLM's own: pause (running requests are kept, the prefix cache is dropped: its keys and values
are the old weights'), start, update piece by piece, finish with the version, resume. What carries the tensors differs:
shared memory on CPU hosts (here), NCCL or CUDA IPC on GPUs (cuda_transfer.py).
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.update_manifest import Arrivals, Manifest, dtype_name
from alphamed_nemo.rollout.vllm_command import resolve_transfer

__all__ = ["RefitStats", "RolloutError", "WeightTransfer"]

Weights = Iterator[tuple[str, torch.Tensor]]

SEGMENT_NAME = "alphamed-refit"  # as /proc shows it
ALIGNMENT = 64  # bytes, of each tensor in the segment
GROWTH = 64 * 2**20  # bytes by which a segment that is too small grows

log = logging.getLogger(__name__)


@dataclass
class RefitStats:
    """One refit: wall seconds from pause to resume, and what was sent."""

    seconds: float
    bytes: int
    tensors: int
    version: int


class Sender(Protocol):
    """What carries tensors from the trainer to the engine's workers.

    Attributes:
        partial: the engine may hold a part of an update that did not end, and must not sample.
    """

    partial: bool

    def open(self) -> None:
        """Meet the workers; called while the engine is paused, before the update starts."""

    def send(self, weights: Weights) -> int:
        """Send all of them and return the bytes. The workers hold them, checked, when this returns."""

    def abort(self) -> None:
        """End an update that could not be sent."""

    def close(self) -> None:
        """Free what the refits share."""


class WeightTransfer:
    """Refits one rollout server.

    Args:
        url, api_key: the server.
        cfg: `transfer` picks the carrier, `request_timeout_s` limits each call.
        manifest: what a complete update carries. Every weight is compared with it before it is sent, and the engine
            compares the update with the folder that it was started from.
        cuda: whether trainer and server have CUDA devices; None: ask torch.

    Raises:
        ValueError: `rollout.transfer` cannot work here.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        cfg: RolloutConfig,
        manifest: Manifest,
        cuda: bool | None = None,
    ) -> None:
        self.connection = Connection(url, api_key, cfg.request_timeout_s, cfg.retries)
        self.manifest = manifest
        transfer = resolve_transfer(cfg.transfer, torch.cuda.is_available() if cuda is None else cuda)
        self.colocated = transfer == "ipc"
        self.asleep = False
        self.sender: Sender
        if transfer == "shm":
            self.sender = SharedMemorySender(self.connection)
        else:
            from alphamed_nemo.rollout.carriers.cuda import cuda_sender

            self.sender = cuda_sender(transfer, self.connection, cfg, manifest)

    def make_room(self) -> None:
        """Before the trainer works on a GPU that it shares with the server: vLLM gives back its weights, which the next
        refit replaces, and its KV cache. Nothing where they have GPUs of their own.
        """
        if not self.colocated:
            return
        try:
            self.connection.call("POST", "/sleep", "the engine to free its memory", params={"level": "2"})
            self.asleep = True
        except RolloutLost as error:  # a server that is gone has freed it, and the next refit deals with its successor
            log.warning("before the update: %s", error)

    def _wake(self, tag: str) -> None:
        if self.asleep:
            self.connection.call("POST", "/wake_up", f"the engine to take memory for its {tag}", params={"tags": tag})

    def refit(self, weights: Weights, version: int) -> RefitStats:
        """Send a whole policy and serve from it.

        Args:
            weights: (HF name, full tensor) of every weight, in any order, each once; tied heads are not sent.
            version: of these weights; what `weight_version()` and every later Rollout carry.

        Raises:
            RolloutError: the update was refused or failed. The old weights and version serve on. With CUDA carriers,
                which load as they receive, that is so until the first weight has arrived; after that the server stays
                paused until another refit succeeds or it is restarted, and never samples from a part of an update.
        """
        started = time.perf_counter()
        post = self.connection.call
        sent = _Checked(weights, self.manifest)
        post("POST", "/pause", "the engine to pause", params={"mode": "keep", "clear_cache": "true"})
        try:
            self._wake("weights")
            self.sender.open()
            self._start()
            try:
                size = self.sender.send(iter(sent))
                finish = {"weight_version": str(version)}
                post("POST", "/finish_weight_update", "a weight update to finish", retry=False, json=finish)
                self.sender.partial = False
            except BaseException:
                self.sender.abort()
                raise
        finally:
            self._wake("kv_cache")
            self.asleep = False  # a server that was lost, and comes back, is awake
            if not self.sender.partial:
                post("POST", "/resume", "the engine to resume")
        if (served := weight_version(self.connection)) != version:
            raise RolloutError(f"refit to version {version}, but the server reports version {served}")
        return RefitStats(time.perf_counter() - started, size, sent.count, version)

    def _start(self) -> None:
        """Start an update; where a trainer that died left one open, end that first."""
        start = ("POST", "/start_weight_update", "a weight update to start")
        try:
            self.connection.call(*start, retry=False)
        except RolloutError as error:
            if "already active" not in str(error):
                raise
            self.sender.abort()
            self.connection.call(*start, retry=False)

    def close(self) -> None:
        self.sender.close()
        self.connection.close()


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


class SharedMemorySender:
    """Writes a whole update into one segment of shared memory, which the workers map and load from.

    The segment lives as long as this sender, so its pages are taken once and not in every refit. It is a file without a
    name (memfd), of which nothing stays whichever process dies when, and /dev/shm, 64 MB in containers by default,
    does not limit it.
    """

    partial = False  # the engine loads once the whole update is there

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.descriptor: int | None = None
        self.segment = torch.empty(0, dtype=torch.uint8)

    def open(self) -> None:
        if self.descriptor is None:
            self.descriptor = os.memfd_create(SEGMENT_NAME)
        info = {"path": f"/proc/{os.getpid()}/fd/{self.descriptor}"}
        waiting_for = "the engine to open the shared segment (it must run on this host, as this user)"
        path = "/init_weight_transfer_engine"
        self.connection.call("POST", path, waiting_for, retry=False, json={"init_info": info})

    def send(self, weights: Weights) -> int:
        assert self.descriptor is not None, "open() comes first"
        tensors: list[list] = []
        end = total = 0
        for name, tensor in weights:
            start, size = -(-end // ALIGNMENT) * ALIGNMENT, tensor.numel() * tensor.element_size()
            end, total = start + size, total + size
            if end > len(self.segment):
                self._grow(end)
            self.segment[start:end].view(tensor.dtype).view(tensor.shape).copy_(tensor)
            tensors.append([name, dtype_name(tensor), list(tensor.shape), start])
        self._update(tensors)
        return total

    def abort(self) -> None:
        """Best effort: the error that led here is the one to report."""
        try:
            self._update([], abort=True)
        except RolloutError:
            pass  # the answer to an abort is an error by design

    def close(self) -> None:
        self.segment = torch.empty(0, dtype=torch.uint8)  # unmapped with the last tensor that reads it
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _grow(self, size: int) -> None:
        """Map at least `size` bytes; what is written already stays."""
        size = -(-size // GROWTH) * GROWTH
        os.ftruncate(self.descriptor, size)  # takes no memory yet
        self.segment = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)

    def _update(self, tensors: list[list], **flags: bool) -> None:
        info = {"tensors": tensors, **flags}
        waiting_for = f"the engine to load {len(tensors)} weights"
        self.connection.call("POST", "/update_weights", waiting_for, retry=False, json={"update_info": info})
