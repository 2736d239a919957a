"""What rank 0 learns from the servers, given to every rank, or to each data-parallel rank its share of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from alphamed_nemo.policy.runtime import gloo_group

T = TypeVar("T")


class RemoteError(RuntimeError):
    """Rank 0 failed while the other ranks waited for its result."""


class Exchange:
    """Sends Python values from rank 0 over a gloo group of its own, so that no GPU stream is touched.

    Its making and its methods are collective.

    Args:
        data_rank: this rank's place among the data-parallel ranks.
    """

    def __init__(self, data_rank: int) -> None:
        self.rank = dist.get_rank()
        self.group = gloo_group()
        self.data_ranks: list[int] = [0] * dist.get_world_size()  # the data-parallel rank of each rank
        dist.all_gather_object(self.data_ranks, data_rank, group=self.group)

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

    def share(self, make: Callable[[], Sequence[T]]) -> T:
        """Runs `make` on rank 0, which gives one value for each data-parallel rank, and returns each rank its own.

        A value is pickled once, and no rank receives another's.

        Raises:
            RemoteError: on the other ranks, when `make` raised on rank 0 (which raises the error itself).
        """
        parcels: list[torch.Tensor] = []

        def packed() -> list[int]:
            parcels.extend(_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)) for value in make())
            return [len(parcel) for parcel in parcels]

        sizes = self.from_rank0(packed)
        own, room = sizes[self.data_ranks[self.rank]], max(sizes)  # gloo scatters parcels of one size
        received = torch.empty(room, dtype=torch.uint8)
        padded = [torch.nn.functional.pad(parcel, (0, room - len(parcel))) for parcel in parcels]
        sent = [padded[data_rank] for data_rank in self.data_ranks] if self.rank == 0 else None
        dist.scatter(received, sent, src=0, group=self.group)
        return pickle.loads(received[:own].numpy().tobytes())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank; all ranks get the same answer."""
        value = torch.tensor([int(flag)])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return bool(value.item())


def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
