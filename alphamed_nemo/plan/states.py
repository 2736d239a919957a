"""Bytes of weights, gradients and optimizer state on one rank, as Megatron's distributed optimizer lays them out.

Parameters and float32 gradients lie in one buffer a chunk, each parameter at a multiple of 64 elements and each bucket
a multiple of 128 and of the data-parallel ranks (megatron/core/distributed/param_and_grad_buffer.py, 0.16.1). Adam's
two moments, and the float32 parameters where training is in bfloat16, are divided: each rank has its equal part of
every bucket. With LoRA all this is for the adapters, and the frozen weights lie in no buffer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from alphamed_nemo.config import LoraConfig, ParallelConfig
from alphamed_nemo.config.choices import LoraTarget
from alphamed_nemo.plan.adapters import adapter_parameters
from alphamed_nemo.plan.sizes import Model

ELEMENT = {"float32": 4, "bfloat16": 2}
GRADIENT = MOMENT = MASTER = 4  # float32


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients are reduced together: their places [start, stop) and the padded length."""

    places: tuple[tuple[int, int], ...]
    length: int

    def owned(self, rank: int, ranks: int) -> int:
        """Elements of parameters in the part of one data-parallel rank."""
        part = self.length // ranks
        first, last = rank * part, (rank + 1) * part
        return sum(max(0, min(stop, last) - max(start, first)) for start, stop in self.places)


@dataclass(frozen=True)
class States:
    """Bytes on one rank. `frozen` is the part of the weights that is not trained."""

    weights: int
    gradients: int
    optimizer: int
    frozen: int = 0

    @property
    def trained(self) -> int:
        """Of the weights that an update changes."""
        return self.weights - self.frozen


def rank_states(
    model: Model,
    parallel: ParallelConfig,
    dtype: str,
    stage: int,
    data_rank: int = 0,
    overlap: bool = True,
    lora: LoraConfig | None = None,
) -> States:
    """Of a rank on pipeline stage `stage`; all its tensor-parallel ranks have the same.

    Args:
        dtype: `model.dtype`.
        data_rank: place among the data- and context-parallel ranks, which share the optimizer state.
        overlap: whether gradients are reduced while the backward pass runs, as on GPUs; it makes more buckets.
        lora: the adapters, where their rank is above 0.
    """
    layout = (parallel.tensor, parallel.pipeline, parallel.data, parallel.context, parallel.virtual_pipeline)
    adapters = (lora.rank, tuple(lora.targets)) if lora is not None and lora.rank else None
    buffer, owned, frozen = _elements(model, layout, stage, data_rank, overlap, adapters)
    state = 2 * MOMENT + (MASTER if dtype == "bfloat16" else 0)
    element = ELEMENT[dtype]
    return States((buffer + frozen) * element, buffer * GRADIENT, owned * state, frozen * element)


@lru_cache(maxsize=1024)
def _elements(
    model: Model,
    layout: tuple[int, int, int, int, int | None],
    stage: int,
    data_rank: int,
    overlap: bool,
    adapters: tuple[int, tuple[LoraTarget, ...]] | None,
) -> tuple[int, int, int]:
    """Elements of a rank's buffers, padding included, those whose optimizer state it has, and frozen ones.

    Args:
        layout: tensor, pipeline, data, context and virtual_pipeline of `parallel`.
        adapters: rank and targets of `lora`; None: all weights are trained.
    """
    tensor, pipeline, data, context, virtual = layout
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline, data=data, context=context, virtual_pipeline=virtual)
    buffer = owned = frozen = 0
    chunks = model.chunks_of(parallel, stage)
    if adapters is not None:
        frozen = sum(elements for chunk in chunks for elements, _ in chunk)
        lora = LoraConfig(rank=adapters[0], targets=[*adapters[1]])
        chunks = [[(size, False) for size in chunk] for chunk in adapter_parameters(model, parallel, lora, stage)]
    for index, parameters in enumerate(chunks):
        bucketed = overlap and stage == 0 and index == 0
        limit = max(40_000_000, 1_000_000 * data) if bucketed else None
        for bucket in divide(parameters, data * context, limit):
            buffer += bucket.length
            owned += bucket.owned(data_rank, data * context)
    return buffer, owned, frozen


def fp8_copies(model: Model, parallel: ParallelConfig, stage: int) -> int:
    """Bytes of the weights in FP8 that Transformer Engine keeps beside those in bfloat16 (`model.fp8`), on a rank.

    Each matrix of a layer is quantised once per step, for the first micro-batch, and kept in two layouts, as it is and
    transposed: on Hopper the products of the backward pass want the latter. The scales are left out: 4 bytes a tensor,
    or a block of 128 × 128. Source: `_fp8_workspaces` in transformer_engine/pytorch/module/base.py, 2.20.
    """
    layers = sum(map(len, model.layers_of(parallel, stage)))
    return 2 * layers * model.layer_matmul // parallel.tensor


def divide(parameters: list[tuple[int, bool]], ranks: int, limit: int | None) -> list[Bucket]:
    """The buckets of one chunk.

    Args:
        parameters: (elements, whether it needs a bucket of its own) in the model's order.
        ranks: that share the optimizer state.
        limit: elements after which a bucket ends; None: one bucket.
    """
    buckets: list[Bucket] = []
    places: list[tuple[int, int]] = []
    end = 0

    def close() -> None:
        nonlocal end
        if places:
            multiple = math.lcm(ranks, 128)
            buckets.append(Bucket(tuple(places), math.ceil(end / multiple) * multiple))
            places.clear()
        end = 0

    for elements, alone in reversed(parameters):  # in the order in which the backward pass reaches them
        if alone:
            close()
        start = math.ceil(end / 64) * 64
        end = start + elements
        places.append((start, end))
        if alone or (limit is not None and end >= limit):
            close()
    close()
    return buckets
