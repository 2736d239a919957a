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
from alphamed_nemo.policy.weights.table import Block, Entry, WeightTable


@dataclass
class _Part:
    """What one rank holds of one block."""

    rank: int  # global
    stage: int
    tensor_rank: int
    shapes: list[tuple[int, ...]]  # in the order of the block's rows


@dataclass
class _Arrival:
    """A block on its way to rank 0: the flat buffers of its parts, and the receives still under way."""

    block: Block
    parts: list[_Part]
    buffers: list[Tensor]
    waits: list[Any] = field(default_factory=list)


@torch.no_grad()
def stream_hf(
    model_chunks: Sequence[torch.nn.Module], hf_config: Any, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor | None]]:
    """Yields every Hugging Face tensor, in the order of `hf_shapes(hf_config)`.

    Collective over the tensor × pipeline group of data-parallel rank 0: all its ranks must run the iterator to its
    end. Other data-parallel ranks may iterate too; they send nothing. The tensors are copies: they do not change when
    training goes on.

    Args:
        model_chunks: Megatron GPTModels of this rank (also wrapped by DDP).
        hf_config: transformers' config of the model.
        dtype: type of the tensors; by default the parameters' own.

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
    parts = _exchange_parts(held, table)
    if dist.get_rank() == 0:
        yield from _receive(held, table, parts, dtype)
    else:
        yield from _send(held, table, parts, dtype)


def of_rank0(weights: Iterator[tuple[str, Tensor | None]]) -> Iterator[tuple[str, Tensor]]:
    """The same iterator, as rank 0 sees it: with every tensor."""
    return cast(Iterator[tuple[str, Tensor]], weights)


def _exchange_parts(held: dict[Entry, Bound], table: WeightTable) -> list[list[_Part]]:
    """For each block, the ranks that hold it, in the order of tensor-parallel ranks; the same on all ranks."""
    group = joined(parallel_state.get_model_parallel_group())
    mine = [
        _Part(
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


def _receive(
    held: dict[Entry, Bound], table: WeightTable, parts: list[list[_Part]], dtype: torch.dtype | None
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
        yield from _unpack(arrival)


def _expect(
    block: Block, parts: list[_Part], held: dict[Entry, Bound], like: Tensor, dtype: torch.dtype | None
) -> _Arrival:
    arrival, group = _Arrival(block, parts, []), joined(parallel_state.get_model_parallel_group())
    for part in parts:
        if part.rank == 0:
            arrival.buffers.append(_flatten(block, held, dtype))
            continue
        size = sum(torch.Size(shape).numel() for shape in part.shapes)
        buffer = torch.empty(size, dtype=dtype or like.dtype, device=like.device)
        arrival.buffers.append(buffer)
        arrival.waits.append(dist.irecv(buffer, src=part.rank, group=group))
    return arrival


def _send(
    held: dict[Entry, Bound], table: WeightTable, parts: list[list[_Part]], dtype: torch.dtype | None
) -> Iterator[tuple[str, None]]:
    """The others: send what they hold, one block in flight."""
    group = joined(parallel_state.get_model_parallel_group())
    pending: tuple[Any, Tensor] | None = None  # the buffer must live until it is sent
    for block, block_parts in zip(table.blocks, parts, strict=True):
        if any(part.rank == dist.get_rank() for part in block_parts):
            if pending:
                pending[0].wait()
            buffer = _flatten(block, held, dtype)
            pending = (dist.isend(buffer, dst=0, group=group), buffer)
        yield from ((name, None) for entry in block.entries for name in entry.names)
    if pending:
        pending[0].wait()


def _flatten(block: Block, held: dict[Entry, Bound], dtype: torch.dtype | None) -> Tensor:
    """A copy of this rank's parameters of the block, end to end."""
    tensors = [held[entry].parameter.detach() for entry in block.entries]
    if dtype is None:
        assert len({tensor.dtype for tensor in tensors}) == 1, f"{block.name}: parameters of several types"
    return torch.cat([tensor.to(dtype or tensor.dtype).reshape(-1) for tensor in tensors])


def _unpack(arrival: _Arrival) -> Iterator[tuple[str, Tensor]]:
    """Cuts the flat buffers into shards and merges these to Hugging Face tensors."""
    offset = [0] * len(arrival.parts)
    for row, entry in enumerate(arrival.block.entries):
        shards = []
        for i, (part, buffer) in enumerate(zip(arrival.parts, arrival.buffers, strict=True)):
            shape = part.shapes[row]
            size = torch.Size(shape).numel()
            shards.append(buffer[offset[i] : offset[i] + size].view(shape))
            offset[i] += size
        yield from entry.merge(shards)
