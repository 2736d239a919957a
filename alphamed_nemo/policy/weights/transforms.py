"""What happens to the numbers between one or more Hugging Face tensors and one Megatron parameter.

Each transform goes both ways: `shard` builds the part of the parameter that one tensor-parallel rank holds and reads
no more of the Hugging Face tensors than that part needs; `merge` rebuilds the Hugging Face tensors from the parts of
all ranks. `merge` after `shard` gives the same bits. What it returns may share the shards' memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Source = Any  # a Tensor, or safetensors' lazy slice: `source[a:b]` and `source[:, a:b]` read these rows or columns


class Transform(Protocol):
    """One kind of rearrangement."""

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        """The parameter of tensor-parallel rank `rank` of `ranks`; `rows` is the first dimension that it has there."""
        ...

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """The Hugging Face tensors, from the parameter's shards in the order of tensor-parallel ranks."""
        ...


def concatenated(shards: Sequence[Tensor], dim: int = 0) -> Tensor:
    """One after the other; a single one as it is, without a copy."""
    return torch.cat(list(shards), dim=dim) if len(shards) > 1 else shards[0]


@dataclass(frozen=True)
class Replicated:
    """The same on every tensor-parallel rank: norms."""

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        return sources[0][:]

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        return [shards[0]]


@dataclass(frozen=True)
class RowParallel:
    """Split along the input features: [out, in] → [out, in / ranks]."""

    columns: int  # input features of the whole matrix

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        width = self.columns // ranks
        return sources[0][:, rank * width : (rank + 1) * width]

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        return [concatenated(shards, dim=1)]


@dataclass(frozen=True)
class Vocabulary:
    """Split along the vocabulary, which Megatron pads so that every rank holds as many rows: padding rows are zero."""

    size: int  # rows without padding

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        start, stop = min(rank * rows, self.size), min((rank + 1) * rows, self.size)
        real = sources[0][start:stop]
        return torch.cat([real, real.new_zeros(rows - (stop - start), *real.shape[1:])])

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        return [concatenated(shards)[: self.size]]


@dataclass(frozen=True)
class GateUp:
    """Gate over up in one matrix, on each rank: [gate_r; up_r]."""

    features: int  # rows of gate, and of up

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        height = self.features // ranks
        return torch.cat([source[rank * height : (rank + 1) * height] for source in sources])

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        halves = [shard.chunk(2) for shard in shards]
        return [concatenated([half[i] for half in halves]) for i in range(2)]


@dataclass(frozen=True)
class QkvByGroup:
    """Query, key and value in one matrix (or bias), by group: the group's query heads, its key head, its value head.

    The rows are then cut evenly between the ranks. With fewer groups than ranks a cut goes through a group, which
    Megatron allows where the ranks are a multiple of the groups.
    """

    heads: int  # query heads
    groups: int  # key-value heads
    head_dim: int

    @property
    def _group_rows(self) -> list[int]:
        """Rows of query, key and value in one group."""
        return [self.heads // self.groups * self.head_dim, self.head_dim, self.head_dim]

    def shard(self, sources: Sequence[Source], rank: int, ranks: int, rows: int) -> Tensor:
        height = sum(self._group_rows)
        start, stop = rank * rows, (rank + 1) * rows
        first, last = start // height, -(-stop // height)  # the groups that these rows touch
        parts = []
        for source, part_rows in zip(sources, self._group_rows, strict=True):
            part = source[first * part_rows : last * part_rows]
            parts.append(part.reshape(last - first, part_rows, *part.shape[1:]))
        by_group = torch.cat(parts, dim=1)
        flat = by_group.reshape(-1, *by_group.shape[2:])
        return flat[start - first * height : stop - first * height]

    def merge(self, shards: Sequence[Tensor]) -> list[Tensor]:
        flat = concatenated(shards)
        by_group = flat.reshape(self.groups, -1, *flat.shape[1:])
        return [part.reshape(-1, *flat.shape[1:]) for part in by_group.split(self._group_rows, dim=1)]
