"""Which rows of the table this rank's model chunks hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_layer import TransformerLayer

from alphamed_nemo.policy.lora import SUFFIX, Adapter, adapters_of
from alphamed_nemo.policy.weights.table import Entry, WeightTable


@dataclass(frozen=True)
class Bound:
    """One parameter of this rank and its row of the table."""

    name: str  # Megatron's, with the layer's number in the whole model
    parameter: torch.nn.Parameter
    entry: Entry
    adapter: Adapter | None = None  # of a matrix

    def value(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """What the model computes with: the parameter, with its adapter merged, in `dtype` or its own type. Where
        neither changes it, it is the parameter's own memory."""
        weight = self.parameter.detach()
        merged = weight if self.adapter is None else self.adapter.merged(weight)
        return merged.to(dtype or weight.dtype)

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Name and parameter of this row, and of its adapter."""
        yield self.name, self.parameter
        if self.adapter is not None:
            place = self.name.removesuffix(".weight")
            yield from ((f"{place}{SUFFIX}.{name}", each) for name, each in self.adapter.named_parameters())


def unwrap(chunk: torch.nn.Module) -> GPTModel:
    """The GPTModel inside Megatron's DistributedDataParallel and Float16Module."""
    while not isinstance(chunk, GPTModel):
        chunk = chunk.get_submodule("module")
    return chunk


def layer_numbers(chunk: GPTModel) -> list[int]:
    """Of the chunk's layers in the whole model, counted from 1 as Megatron does."""
    numbers = []
    for layer in chunk.decoder.layers:
        assert isinstance(layer, TransformerLayer)
        numbers.append(layer.layer_number)
    return numbers


def bind(chunks: Sequence[torch.nn.Module], table: WeightTable) -> list[Bound]:
    """This rank's parameters, each with its row.

    Raises:
        ValueError: a parameter has no row, has a row that another one took, or a row of a part of the model that this
            rank holds (embedding, a layer, the head) has no parameter.
    """
    by_name = {name: entry for entry in (*table.entries(), table.output) for name in entry.megatron}
    bound: list[Bound] = []
    taken: dict[tuple[str, ...], str] = {}
    for chunk in map(unwrap, chunks):
        for name, parameter, adapter in _global_names(chunk):
            entry = by_name.get(name)
            if entry is None:
                raise ValueError(f"Megatron parameter {name}: the weight map has no row for it")
            if entry.megatron in taken:
                raise ValueError(f"Megatron parameter {name}: {taken[entry.megatron]} already takes its row")
            taken[entry.megatron] = name
            bound.append(Bound(name, parameter, entry, adapter))
        for entry in _expected(chunk, table):
            if entry.megatron not in taken:
                raise ValueError(f"Megatron parameter {' or '.join(entry.megatron)}: missing in the model")
    return bound


def _global_names(chunk: GPTModel) -> Iterator[tuple[str, torch.nn.Parameter, Adapter | None]]:
    """The model's own parameters, each with its adapter, under the names that they would have without pipeline
    parallelism."""
    numbers, adapters = layer_numbers(chunk), adapters_of(chunk)
    of_adapters = {parameter for adapter in adapters.values() for parameter in adapter.parameters()}
    for name, parameter in chunk.named_parameters():
        if parameter in of_adapters:
            continue
        adapter = adapters.get(name.removesuffix(".weight"))
        parts = name.split(".")
        if parts[:2] == ["decoder", "layers"]:
            parts[2] = str(numbers[int(parts[2])] - 1)
        yield ".".join(parts), parameter, adapter


def _expected(chunk: GPTModel, table: WeightTable) -> Iterator[Entry]:
    """The rows that a chunk with these parts must have."""
    if chunk.pre_process:
        yield from table.blocks[0].entries
    for number in layer_numbers(chunk):
        yield from table.blocks[number].entries
    if chunk.post_process:
        yield from table.blocks[-1].entries
        if table.tied and not chunk.pre_process:
            yield table.output
