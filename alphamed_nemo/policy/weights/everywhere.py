"""Megatron in any tensor × pipeline layout out as Hugging Face tensors, all of them on every rank.

For refits in which each rank serves the engine's worker on its own device. The model passes in buckets: rows of the
table (parameters) that one pipeline stage holds. The stage's tensor-parallel ranks gather a bucket among themselves,
and each broadcasts it to the ranks with its tensor rank on the other stages. A rank holds two buckets, the one in use
and the next on its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from alphamed_nemo.policy.groups import joined
from alphamed_nemo.policy.weights.binding import Bound, bind
from alphamed_nemo.policy.weights.parts import Part, cut, exchange_parts, flatten, merged, own_shards
from alphamed_nemo.policy.weights.table import Entry, WeightTable

BUCKET_BYTES = 256 * 2**20  # large enough that a collective runs at the link's speed


@dataclass
class Bucket:
    """Rows that travel together.

    Attributes:
        stage: the pipeline stage that holds them.
        entries, shapes: rows, and what each tensor-parallel rank of that stage holds of them; the same on each.
    """

    stage: int
    entries: list[Entry] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """Of one tensor-parallel rank."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)


@torch.no_grad()
def stream_everywhere(
    model_chunks: Sequence[torch.nn.Module],
    hf_config: Any,
    dtype: torch.dtype | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> Iterator[tuple[str, Tensor]]:
    """Yields every Hugging Face tensor on every rank, in the order of `hf_shapes(hf_config)`.

    Collective over the tensor × pipeline group of each data-parallel rank: all its ranks must run the iterator to its
    end, at one pace. The tensors are copies: they do not change when training goes on.

    Args:
        model_chunks: Megatron GPTModels of this rank (also wrapped by DDP).
        hf_config: transformers' config of the model.
        dtype: type of the tensors; by default the parameters' own.
        bucket_bytes: of the full tensors that travel together; one larger parameter travels alone.

    Raises:
        ValueError: parameters and weight map do not fit, or the ranks together do not hold every row exactly once
            (raised on all ranks of the group).
    """
    table = WeightTable(hf_config)
    held = {bound.entry: bound for bound in bind(model_chunks, table)}
    like = next(iter(held.values())).parameter
    like = torch.empty(0, dtype=dtype or like.dtype, device=like.device)
    buckets = cut_into_buckets(table, exchange_parts(held, table), bucket_bytes, like.element_size())
    upcoming = _gather(buckets[0], held, like)
    for i, bucket in enumerate(buckets):
        whole, under_way = upcoming
        if i + 1 < len(buckets):
            upcoming = _gather(buckets[i + 1], held, like)
        if under_way is not None:
            under_way.wait()
        yield from merged(bucket.entries, [cut(flat, bucket.shapes) for flat in whole.split(bucket.elements)])


def cut_into_buckets(
    table: WeightTable, parts: Sequence[Sequence[Part]], bucket_bytes: int, element_size: int
) -> list[Bucket]:
    """The rows of all blocks in order, cut where the stage changes and where full tensors exceed `bucket_bytes`."""
    buckets: list[Bucket] = []
    size = 0
    for block, holders in zip(table.blocks, parts, strict=True):
        assert all(part.shapes == holders[0].shapes for part in holders), f"{block.name}: unequal shards"
        for entry, shape in zip(block.entries, holders[0].shapes, strict=True):
            more = torch.Size(shape).numel() * len(holders) * element_size
            if not buckets or buckets[-1].stage != holders[0].stage or size + more > bucket_bytes:
                buckets.append(Bucket(holders[0].stage))
                size = 0
            buckets[-1].entries.append(entry)
            buckets[-1].shapes.append(shape)
            size += more
    return buckets


def _gather(bucket: Bucket, held: dict[Entry, Bound], like: Tensor) -> tuple[Tensor, Any]:
    """The bucket, [tensor-parallel ranks × elements], and the broadcast that may still be under way."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    stages = joined(parallel_state.get_pipeline_model_parallel_group())
    whole = like.new_empty(ranks * bucket.elements)
    if parallel_state.get_pipeline_model_parallel_rank() == bucket.stage:
        own = flatten(own_shards(bucket.entries, held, like.dtype))
        if ranks == 1:
            whole = own
        else:
            dist.all_gather_into_tensor(whole, own, group=joined(parallel_state.get_tensor_model_parallel_group()))
    if dist.get_world_size(stages) == 1:
        return whole, None
    return whole, dist.broadcast(whole, dist.get_global_rank(stages, bucket.stage), stages, async_op=True)
