"""Parameters of LoRA's adapters on one rank, which alone have gradients and optimizer state (policy/lora.py)."""

from __future__ import annotations

from alphamed_nemo.config import LoraConfig, ParallelConfig
from alphamed_nemo.plan.sizes import Model, local_shape


def trained_parameters(model: Model, lora: LoraConfig) -> int:
    """Elements that a run trains, of the whole model: its adapters', or all."""
    if not lora.rank:
        return model.parameters
    return sum(map(sum, adapter_parameters(model, ParallelConfig(), lora, 0)))


def adapter_parameters(model: Model, parallel: ParallelConfig, lora: LoraConfig, stage: int) -> list[list[int]]:
    """Of each chunk of a pipeline stage: elements of A and of B of each adapter, on one tensor-parallel rank.

    A has as many columns as that rank's part of the weight, B as many rows.
    """
    weights = {entry.megatron[0].removesuffix(".weight"): entry for entry in model.table.blocks[1].entries}
    of_target = {name.rpartition(".")[2]: entry for name, entry in weights.items()}
    layer: list[int] = []
    for target in lora.targets:
        rows, columns = local_shape(of_target[target], parallel.tensor)
        layer += [lora.rank * columns, lora.rank * rows]
    return [layer * len(layers) for layers in model.layers_of(parallel, stage)]
