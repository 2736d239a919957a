"""That gradients and weights are finite numbers, agreed upon by all ranks, so that none waits for one that has stopped.

One sum for each tensor, which is NaN or infinite where a number in it is, and one all-reduced flag. Only where that is
set are the tensors looked through, for the name of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.table import WeightTable


class NotFiniteError(RuntimeError):
    """A loss, a gradient or a weight is NaN or infinite; the weights must not be kept or served. On every rank."""


@torch.no_grad()
def first_not_finite(
    chunks: Sequence[torch.nn.Module], hf_config: Any, of: Callable[[torch.nn.Parameter], Tensor | None]
) -> str | None:
    """Megatron's name, the layer's number in the whole model, of the first parameter that has a number that is not
    finite in the tensor that `of` takes from it; None where all are finite. The same on every rank: collective.

    Args:
        chunks: this rank's, also wrapped by DDP.
        hf_config: transformers' config of the model.
        of: the parameter itself, or its gradient; None where it has none.
    """
    looked_at = (of(parameter) for chunk in chunks for parameter in chunk.parameters())
    sums = [tensor.sum().float() for tensor in looked_at if tensor is not None]
    suspicious = (~torch.stack(sums).isfinite()).any().int()
    dist.all_reduce(suspicious, op=dist.ReduceOp.MAX)
    if not suspicious.item():
        return None
    table = WeightTable(hf_config)
    order = {entry: place for place, entry in enumerate((*table.entries(), table.output))}
    mine = [
        (order[bound.entry], name)
        for bound in bind(chunks, table)
        for name, parameter in bound.parameters()
        if (tensor := of(parameter)) is not None
        and not tensor.isfinite().all()  # else finite numbers, whose sum is not
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, min(mine, default=None))
    return min((found for found in everyone if found), default=(0, None))[1]
