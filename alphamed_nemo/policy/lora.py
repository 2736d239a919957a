"""Low-rank adapters (LoRA) beside Megatron's linear layers, which are frozen.

    y = W x + (alpha / rank) B A x

A [rank, in] and B [out, rank] are divided among the tensor-parallel ranks as W [out, in] is:

| linear layer | A | B | A x, which is all that travels |
| --- | --- | --- | --- |
| linear_qkv, linear_fc1: column-parallel | whole on each rank | rows | its gradient is summed |
| linear_proj, linear_fc2: row-parallel | columns | whole on each rank | summed |

Under sequence parallelism A x is gathered in the first case, and scattered as it is summed in the second.

Query, key and value share one A, and so do gate and up, because Megatron computes each of them by one matrix. The rows
of B lie as those of W, so the weight map (`weights/table.py`) takes B apart as it does W. A begins uniform in ±1/√in,
as in PEFT, and B at zero: an untrained adapter changes nothing.

Source: https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor
from torch.nn import Module, Parameter

from alphamed_nemo.config import LoraConfig
from alphamed_nemo.config.choices import LoraTarget

PARENTS: dict[LoraTarget, str] = {  # module of a decoder layer that holds the linear layer
    "linear_qkv": "self_attention",
    "linear_proj": "self_attention",
    "linear_fc1": "mlp",
    "linear_fc2": "mlp",
}
COLUMN_PARALLEL: tuple[LoraTarget, ...] = ("linear_qkv", "linear_fc1")
SUFFIX = "_lora"  # of an adapter's name, after its linear layer's


class Adapter(MegatronModule):
    """(alpha / rank) B A x, this rank's part.

    Args:
        config: Megatron's.
        target: the linear layer's name.
        weight: its own, [out, in] of this rank.
        lora: rank and alpha.

    Attributes:
        a, b: [rank, in] and [out, rank] of this rank, in the type of the weight.
        on: False: the layer computes without it.
    """

    def __init__(self, config: TransformerConfig, target: LoraTarget, weight: Tensor, lora: LoraConfig) -> None:
        super().__init__(config=config)
        self.target, self.lora, self.on = target, lora, True
        self.column = target in COLUMN_PARALLEL
        rows, columns = weight.shape
        self.a = Parameter(weight.new_empty(lora.rank, columns))
        self.b = Parameter(weight.new_zeros(rows, lora.rank))
        divided, whole, dim = (self.b, self.a, 0) if self.column else (self.a, self.b, 1)
        set_tensor_model_parallel_attributes(divided, True, dim, 1)
        # Each rank sees its own part of the tokens only; Megatron sums the gradients of what has this mark.
        vars(whole)["sequence_parallel"] = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] as the linear layer gets it → [..., out] as it returns it."""
        inner = F.linear(x, self.a) * self.lora.scale
        if self.column and self.config.sequence_parallel:
            inner = gather_from_sequence_parallel_region(inner, tensor_parallel_output_grad=True)
        elif self.column:
            inner = copy_to_tensor_model_parallel_region(inner)
        elif self.config.sequence_parallel:
            inner = reduce_scatter_to_sequence_parallel_region(inner)
        else:
            inner = reduce_from_tensor_model_parallel_region(inner)
        return F.linear(inner, self.b)

    def merged(self, weight: Tensor) -> Tensor:
        """W + (alpha / rank) B A, added in float32, for this rank's part [out, in] of the weight."""
        return merge(weight, self.a, self.b, self.lora)

    def add(self, _linear: Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """A forward hook of the linear layer, which returns (y, bias)."""
        if not self.on:
            return output
        y, *bias = output
        return (y + self(inputs[0]), *bias)

    @torch.no_grad()
    def draw(self, name: str, seed: int) -> None:
        """The whole A from a generator of its own, so that every layout begins with the same numbers.

        Args:
            name: of the linear layer in the whole model.
            seed: of the run.
        """
        ranks = 1 if self.column else parallel_state.get_tensor_model_parallel_world_size()
        rank = 0 if self.column else parallel_state.get_tensor_model_parallel_rank()
        columns = self.a.shape[1] * ranks
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}{SUFFIX}".encode()))
        whole = torch.rand(self.a.shape[0], columns, generator=generator)
        self.a.copy_(((2 * whole - 1) / columns**0.5).chunk(ranks, dim=1)[rank])

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Megatron's, which would take both parameters for whole on every rank."""
        axes = {"b": 0} if self.column else {"a": 1}
        held = self.state_dict(prefix="", keep_vars=True)
        shards = make_sharded_tensors_for_checkpoint(held, prefix, axes, sharded_offsets)
        if self.target == "linear_fc1":  # gate and up, each divided by itself
            single = (metadata or {}).get("singleton_local_shards", False)
            shards[f"{prefix}b"] = apply_swiglu_sharded_factory(shards[f"{prefix}b"], sharded_offsets, single)
        return shards


def merge(weight: Tensor, a: Tensor, b: Tensor, lora: LoraConfig) -> Tensor:
    """W + (alpha / rank) B A in float32, or in the weight's type where that is wider."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight, a, b = (part.detach().to(wide) for part in (weight, a, b))
    return torch.addmm(weight, b, a, alpha=lora.scale)


def add_adapters(chunks: Sequence[GPTModel], lora: LoraConfig, seed: int) -> None:
    """Freezes the model and puts an adapter beside each linear layer that `lora.targets` names.

    Args:
        chunks: of this rank, with their weights, not wrapped.
        lora: with a rank above 0.
        seed: the same one gives the same adapters in every layout.
    """
    for chunk in chunks:
        chunk.requires_grad_(False)
        for layer in chunk.decoder.layers:
            assert isinstance(layer, TransformerLayer)
            for target in lora.targets:
                parent = layer.get_submodule(PARENTS[target])
                linear = parent.get_submodule(target)
                assert not hasattr(linear, "layer_norm_weight"), "an adapter needs what comes out of the norm"
                adapter = Adapter(chunk.config, target, linear.get_parameter("weight"), lora)
                if not adapter.a.is_meta:
                    adapter.draw(f"decoder.layers.{layer.layer_number - 1}.{PARENTS[target]}.{target}", seed)
                parent.add_module(target + SUFFIX, adapter)
                linear.register_forward_hook(adapter.add)
        if chunk.pre_process and chunk.config.recompute_granularity is not None:
            # What is computed again gets gradients only where an input of it has one, and all before it is frozen.
            chunk.embedding.register_forward_hook(_with_gradient)


def adapters_of(module: Module) -> dict[str, Adapter]:
    """The adapters in a module, by the names of their linear layers."""
    found = ((name, part) for name, part in module.named_modules() if isinstance(part, Adapter))
    return {name.removesuffix(SUFFIX): part for name, part in found}


def adapter_settings(module: Module) -> LoraConfig | None:
    """Of the adapters in a module; None where it has none."""
    return next((adapter.lora for adapter in adapters_of(module).values()), None)


@contextmanager
def without_adapters(chunks: Sequence[Module]) -> Iterator[None]:
    """The base model, for the time of the block."""
    adapters = [adapter for chunk in chunks for adapter in adapters_of(chunk).values()]
    for adapter in adapters:
        adapter.on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.on = True


def _with_gradient(_embedding: Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_()
