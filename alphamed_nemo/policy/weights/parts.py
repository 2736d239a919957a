"""Which rank holds what of each block of the table, and how shards travel: end to end in one flat buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from alphamed_nemo.policy.groups import joined
from alphamed_nemo.policy.weights.binding import Bound
from alphamed_nemo.policy.weights.table import Entry, WeightTable


@dataclass
class Part:
    """What one rank holds of one block."""

    rank: int  # global
    stage: int
    tensor_rank: int
    shapes: list[tuple[int, ...]]  # in the order of the block's rows


def exchange_parts(held: dict[Entry, Bound], table: WeightTable) -> list[list[Part]]:
    """For each block, the ranks that hold it, in the order of tensor-parallel ranks; the same on all ranks of the
    tensor × pipeline group, over which this is collective.

    Raises:
        ValueError: the ranks together do not hold every row exactly once; on all of them.
    """
    group = joined(parallel_state.get_model_parallel_group())
    mine = [
        Part(
            dist.get_rank(),
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
            [tuple(held[entry].parameter.shape) for entry in block.entries],
        )
        if all(entry in held for entry in block.entries)
        else None
        for block in table.blocks
    ]
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, mine, group=group)

    tensor_ranks = parallel_state.get_tensor_model_parallel_world_size()
    blocks = []
    for i, block in enumerate(table.blocks):
        parts = sorted((theirs[i] for theirs in everyone if theirs[i]), key=lambda part: part.tensor_rank)
        stages = sorted({part.stage for part in parts})
        if len(stages) != 1 or [part.tensor_rank for part in parts] != list(range(tensor_ranks)):
            raise ValueError(
                f"{block.name}: found on pipeline stages {stages} and tensor-parallel ranks "
                f"{[part.tensor_rank for part in parts]}, expected one stage and each of {tensor_ranks} ranks once"
            )
        blocks.append(parts)
    return blocks


def own_shards(entries: Sequence[Entry], held: dict[Entry, Bound], dtype: torch.dtype | None) -> list[Tensor]:
    """This rank's parameters of these rows, adapters merged, in `dtype` or their own; copied only if changed."""
    tensors = [held[entry].value(dtype) for entry in entries]
    assert len({tensor.dtype for tensor in tensors}) == 1, f"{entries[0].names}: parameters of several types"
    return tensors


def flatten(shards: Sequence[Tensor]) -> Tensor:
    """A copy of them, end to end."""
    return torch.cat([shard.reshape(-1) for shard in shards])


def cut(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """What `flatten` has put end to end."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]


def merged(entries: Sequence[Entry], shards: Sequence[Sequence[Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The Hugging Face tensors of these rows.

    Args:
        shards: of each tensor-parallel rank, in their order, those of these rows.
    """
    for row, entry in enumerate(entries):
        yield from entry.merge([of_rank[row] for of_rank in shards])
