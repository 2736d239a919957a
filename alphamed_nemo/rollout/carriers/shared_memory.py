"""Refit between processes of one host: a whole update in one segment of shared memory, which every server reads."""

from __future__ import annotations

import mmap
import os

import torch

from alphamed_nemo.rollout.carriers.sender import Weights
from alphamed_nemo.rollout.carriers.updates import end_update
from alphamed_nemo.rollout.connection import Connection, RolloutError
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import dtype_name

SEGMENT_NAME = "alphamed-refit"  # as /proc shows it
ALIGNMENT = 64  # bytes, of each tensor in the segment
GROWTH = 64 * 2**20  # bytes by which a segment that is too small grows


class SharedMemorySender:
    """Writes a whole update once, into a segment of shared memory that the workers of all servers map and load from.

    The segment lives as long as this sender, so its pages are taken once and not in every refit. It is a file without a
    name (memfd), of which nothing stays whichever process dies when, and /dev/shm, 64 MB in containers by default,
    does not limit it.
    """

    def __init__(self) -> None:
        self.partial = False  # an engine loads once the whole update is there
        self.receivers = Receivers([])
        self.descriptor: int | None = None
        self.segment = torch.empty(0, dtype=torch.uint8)

    def open(self, receivers: Receivers) -> None:
        self.receivers = receivers
        if self.descriptor is None:
            self.descriptor = os.memfd_create(SEGMENT_NAME)
        info = {"path": f"/proc/{os.getpid()}/fd/{self.descriptor}"}
        waiting_for = "the engine to open the shared segment (it must run on this host, as this user)"
        path = "/init_weight_transfer_engine"
        receivers.call("POST", path, waiting_for, retry=False, json={"init_info": info})

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

    def abort(self, connection: Connection) -> None:
        end_update(connection, {"tensors": [], "abort": True})

    def close(self) -> None:
        self.segment = torch.empty(0, dtype=torch.uint8)  # unmapped with the last tensor that reads it
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _grow(self, size: int) -> None:
        """Map at least `size` bytes; what is written already stays."""
        assert self.descriptor is not None, "open() comes first"
        size = -(-size // GROWTH) * GROWTH
        os.ftruncate(self.descriptor, size)  # takes no memory yet
        self.segment = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)

    def _update(self, tensors: list[list]) -> None:
        waiting_for = f"the engine to load {len(tensors)} weights"
        info = {"update_info": {"tensors": tensors}}
        try:
            self.receivers.call("POST", "/update_weights", waiting_for, retry=False, json=info)
        except RolloutError:  # those that took it have other weights now than those that refused
            self.partial = bool(self.receivers.accepted)
            raise
