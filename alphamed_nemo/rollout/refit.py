"""Refit: give the rollout engine the policy's new weights. Used on rank 0 of the trainer.

The choreography is vLLM's own: pause (running requests are kept, the prefix cache is dropped: its keys and values
are the old weights'), start, update piece by piece, finish with the version, resume. What carries the tensors differs:
shared memory on CPU hosts, NCCL or CUDA IPC on GPUs (carriers/).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.carriers.sender import Sender, Weights
from alphamed_nemo.rollout.carriers.shared_memory import SharedMemorySender
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.update_manifest import Arrivals, Manifest, dtype_name
from alphamed_nemo.rollout.vllm_command import resolve_transfer

__all__ = ["RefitStats", "RolloutError", "WeightTransfer"]

log = logging.getLogger(__name__)


@dataclass
class RefitStats:
    """One refit: wall seconds from pause to resume, and what was sent."""

    seconds: float
    bytes: int
    tensors: int
    version: int


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
