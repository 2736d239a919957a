"""Megatron in any tensor × pipeline layout out as Hugging Face tensors, layer by layer.

Each block of the table (embedding, one layer, head) is one flat buffer on each tensor-parallel rank of the stage that
holds it, and one message to rank 0, which receives the next block while the caller uses this one. So a refit costs one
message for each block and rank, not a collective for each tensor, and rank 0 never holds more than two blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from alphamed_nemo.policy.groups import joined
from alphamed_nemo.policy.weights.binding import Bound, bind
from alphamed_nemo.policy.weights.parts import Part, cut, exchange_parts, flatten, merged, own_shards
from alphamed_nemo.policy.weights.table import Block, Entry, WeightTable


@dataclass
class _Arrival:
    """A block on its way to rank 0: the shards of its tensor-parallel ranks, and the receives still under way."""

    block: Block
    shards: list[list[Tensor]] = field(default_factory=list)
    waits: list[Any] = field(default_factory=list)


@torch.no_grad()
def stream_hf(
    model_chunks: Sequence[torch.nn.Module], hf_config: Any, dtype: torch.dtype | None = None, copies: bool = True
) -> Iterator[tuple[str, Tensor | None]]:
    """Yields every Hugging Face tensor, in the order of `hf_shapes(hf_config)`.

    Collective over the tensor × pipeline group of data-parallel rank 0: all its ranks must run the iterator to its
    end. Other data-parallel ranks may iterate too; they send nothing.

    Args:
        model_chunks: Megatron GPTModels of this rank (also wrapped by DDP).
        hf_config: transformers' config of the model.
        dtype: type of the tensors; by default the parameters' own.
        copies: the tensors do not change when training goes on. Otherwise they may be the parameters' own memory.

    Yields:
        (name, tensor) on global rank 0, on the device of the parameters, vocabulary padding removed; (name, None) on
        all other ranks.

    Raises:
        ValueError: parameters and weight map do not fit, or the ranks together do not hold every row exactly once
            (raised on all ranks of the group).
    """
    table = WeightTable(hf_config)
    if parallel_state.get_data_parallel_rank(with_context_parallel=True) != 0:
        yield from ((name, None) for name in table.shapes())
        return
    held = {bound.entry: bound for bound in bind(model_chunks, table)}
    parts = exchange_parts(held, table)
    if dist.get_rank() == 0:
        for name, tensor in _receive(held, table, parts, dtype):
            yield name, tensor.clone() if copies else tensor
    else:
        yield from _send(held, table, parts, dtype)


def of_rank0(weights: Iterator[tuple[str, Tensor | None]]) -> Iterator[tuple[str, Tensor]]:
    """The same iterator, as a rank that gets every tensor sees it."""
    return cast(Iterator[tuple[str, Tensor]], weights)


def _receive(
    held: dict[Entry, Bound], table: WeightTable, parts: list[list[Part]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Rank 0: asks for one block ahead, unpacks and merges."""
    like = next(iter(held.values())).parameter
    upcoming = _expect(table.blocks[0], parts[0], held, like, dtype)
    for i in range(len(table.blocks)):
        arrival = upcoming
        if i + 1 < len(table.blocks):
            upcoming = _expect(table.blocks[i + 1], parts[i + 1], held, like, dtype)
        for wait in arrival.waits:
            wait.wait()
        yield from merged(arrival.block.entries, arrival.shards)


def _expect(
    block: Block, parts: list[Part], held: dict[Entry, Bound], like: Tensor, dtype: torch.dtype | None
) -> _Arrival:
    arrival, group = _Arrival(block), joined(parallel_state.get_model_parallel_group())
    for part in parts:
        if part.rank == 0:
            arrival.shards.append(own_shards(block.entries, held, dtype))
            continue
        size = sum(torch.Size(shape).numel() for shape in part.shapes)
        buffer = torch.empty(size, dtype=dtype or like.dtype, device=like.device)
        arrival.shards.append(cut(buffer, part.shapes))
        arrival.waits.append(dist.irecv(buffer, src=part.rank, group=group))
    return arrival


def _send(
    held: dict[Entry, Bound], table: WeightTable, parts: list[list[Part]], dtype: torch.dtype | None
) -> Iterator[tuple[str, None]]:
    """The others: send what they hold, one block in flight."""
    group = joined(parallel_state.get_model_parallel_group())
    pending: tuple[Any, Tensor] | None = None  # the buffer must live until it is sent
    for block, block_parts in zip(table.blocks, parts, strict=True):
        if any(part.rank == dist.get_rank() for part in block_parts):
            if pending:
                pending[0].wait()
            buffer = flatten(own_shards(block.entries, held, dtype))
            pending = (dist.isend(buffer, dst=0, group=group), buffer)
        yield from ((name, None) for entry in block.entries for name in entry.names)
    if pending:
        pending[0].wait()
