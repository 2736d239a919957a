"""What rank 0 learns from the servers, given to every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from alphamed_nemo.policy.runtime import gloo_group

T = TypeVar("T")


class RemoteError(RuntimeError):
    """Rank 0 failed while the other ranks waited for its result."""


class Exchange:
    """Broadcasts Python values from rank 0 over a gloo group of its own, so that no GPU stream is touched."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.group = gloo_group()

    def from_rank0(self, make: Callable[[], T]) -> T:
        """Runs `make` on rank 0 and returns its value on every rank.

        Raises:
            RemoteError: on the other ranks, when `make` raised on rank 0 (which raises the error itself).
        """
        if self.rank != 0:
            box: list = [None]
            dist.broadcast_object_list(box, src=0, group=self.group)
            value, error = box[0]
            if error is not None:
                raise RemoteError(f"rank 0 failed: {error}")
            return value
        try:
            value = make()
        except Exception as error:
            dist.broadcast_object_list([(None, f"{type(error).__name__}: {error}")], src=0, group=self.group)
            raise
        dist.broadcast_object_list([(value, None)], src=0, group=self.group)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank; all ranks get the same answer."""
        value = torch.tensor([int(flag)])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return bool(value.item())
