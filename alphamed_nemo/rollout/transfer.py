"""Refit: give the rollout engine the policy's new weights. Used on rank 0 of the trainer.

The choreography is vLLM's own: pause (running requests are kept, the prefix cache is dropped: its keys and values
are the old weights'), start, update piece by piece, finish with the version, resume. What carries the tensors differs:
shared memory on CPU hosts (here), NCCL or CUDA IPC on GPUs (cuda_transfer.py).
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.manifest import Manifest, check_manifest
from alphamed_nemo.rollout.server import resolve_transfer

__all__ = ["RefitStats", "RolloutError", "WeightTransfer"]

Weights = Iterator[tuple[str, torch.Tensor]]

SEGMENT_BYTES = 32 * 2**20  # half of the 64 MB that containers give /dev/shm by default
SEGMENT_PREFIX = "alphamed-refit-"

log = logging.getLogger(__name__)


@dataclass
class RefitStats:
    """One refit: wall seconds from pause to resume, and what was sent."""

    seconds: float
    bytes: int
    tensors: int
    version: int


class Sender(Protocol):
    """What carries tensors from the trainer to the engine's workers."""

    def open(self) -> None:
        """Meet the workers; called while the engine is paused, before the update starts."""

    def send(self, weights: Weights) -> int:
        """Send all of them and return the bytes. The workers hold them, checked, when this returns."""

    def abort(self) -> None:
        """End an update that could not be sent."""

    def close(self) -> None:
        """Free what `open` took; called after every refit, failed or not."""


class WeightTransfer:
    """Refits one rollout server.

    Args:
        url, api_key: the server.
        cfg: `transfer` picks the carrier, `request_timeout_s` limits each call.
        manifest: names and shapes of a complete update (`manifest.read_manifest` of the served folder), checked on
            this side; the CPU engine checks on its own side in any case.
        cuda: whether trainer and server have CUDA devices; None: ask torch.

    Raises:
        ValueError: `rollout.transfer` cannot work here.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        cfg: RolloutConfig,
        manifest: Manifest | None = None,
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
            from alphamed_nemo.rollout.cuda_transfer import cuda_sender

            self.sender = cuda_sender(transfer, self.connection, cfg)

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
            RolloutError: the update was refused or failed. On CPU hosts the old weights and version serve on. With
                CUDA carriers, which load as they receive, the server must be refitted or restarted before it samples.
        """
        started = time.perf_counter()
        post = self.connection.call
        sent = _Counted(weights, self.manifest)
        post("POST", "/pause", "the engine to pause", params={"mode": "keep", "clear_cache": "true"})
        try:
            self._wake("weights")
            self.sender.open()
            self._start()
            try:
                size = self.sender.send(iter(sent))
                finish = {"weight_version": str(version)}
                post("POST", "/finish_weight_update", "a weight update to finish", retry=False, json=finish)
            except BaseException:
                self.sender.abort()
                raise
        finally:
            self.sender.close()
            self._wake("kv_cache")
            self.asleep = False  # a server that was lost, and comes back, is awake
            post("POST", "/resume", "the engine to resume")
        if (served := weight_version(self.connection)) != version:
            raise RolloutError(f"refit to version {version}, but the server reports version {served}")
        return RefitStats(time.perf_counter() - started, size, len(sent.found), version)

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
        self.connection.close()


class _Counted:
    """The weights as they pass, with their names and shapes noted and checked once the last has passed."""

    def __init__(self, weights: Weights, manifest: Manifest | None) -> None:
        self.weights, self.manifest = weights, manifest
        self.found: list[tuple[str, tuple[int, ...]]] = []

    def __iter__(self) -> Weights:
        for name, tensor in self.weights:
            self.found.append((name, tuple(tensor.shape)))
            yield name, tensor
        try:
            check_manifest(self.manifest if self.manifest is not None else dict(self.found), self.found)
        except ValueError as error:
            raise RolloutError(str(error)) from None


class SharedMemorySender:
    """Writes tensors, piece by piece, into one segment that the worker has mapped.

    The segment's file is unlinked as soon as the worker holds its mapping, so nothing stays in /dev/shm whichever
    process dies when.
    """

    def __init__(self, connection: Connection, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.connection, self.segment_bytes = connection, segment_bytes
        self.segment: mmap.mmap | None = None

    def open(self) -> None:
        path, self.segment = create_segment(self.segment_bytes)
        try:
            info = {"path": str(path), "size": self.segment_bytes}
            self.connection.call(
                "POST",
                "/init_weight_transfer_engine",
                "the engine to map the shared segment (it must run on this host)",
                retry=False,
                json={"init_info": info},
            )
        finally:
            path.unlink()

    def send(self, weights: Weights) -> int:
        assert self.segment is not None, "open() comes first"
        pieces: list[list] = []
        used = total = 0
        room = torch.frombuffer(self.segment, dtype=torch.uint8)
        for name, tensor in weights:
            raw = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
            dtype, start = str(tensor.dtype).removeprefix("torch."), 0
            while start == 0 or start < raw.numel():  # once even for an empty tensor
                if used == self.segment_bytes:
                    self._update(pieces)
                    pieces, used = [], 0
                length = min(raw.numel() - start, self.segment_bytes - used)
                room[used : used + length].copy_(raw[start : start + length])
                pieces.append([name, dtype, list(tensor.shape), start, used, length])
                start, used, total = start + max(length, 1), used + length, total + length
        self._update(pieces, commit=True)
        return total

    def abort(self) -> None:
        """Best effort: the error that led here is the one to report."""
        try:
            self._update([], abort=True)
        except RolloutError:
            pass  # the answer to an abort is an error by design

    def close(self) -> None:
        if self.segment is not None:
            self.segment.close()
            self.segment = None

    def _update(self, pieces: list[list], **flags: bool) -> None:
        info = {"pieces": pieces, **flags}
        waiting_for = f"the engine to take {len(pieces)} pieces of weights"
        self.connection.call("POST", "/update_weights", waiting_for, retry=False, json={"update_info": info})


def create_segment(size: int) -> tuple[Path, mmap.mmap]:
    """A file of `size` bytes in memory, mapped; the caller unlinks it.

    Raises:
        RolloutError: there is no room for it.
    """
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    descriptor, name = tempfile.mkstemp(prefix=SEGMENT_PREFIX, dir=folder)
    try:
        os.posix_fallocate(descriptor, 0, size)  # without the blocks, the first write beyond them would be a bus error
        return Path(name), mmap.mmap(descriptor, size)
    except OSError as error:
        Path(name).unlink()
        free = shutil.disk_usage(folder).free
        raise RolloutError(f"refit: {folder} has no room for {size} bytes ({free} are free): {error}") from None
    finally:
        os.close(descriptor)
