"""Logits in float32 (`model.head_dtype`): products of bfloat16 numbers, exact in float32, are added up there.

In bfloat16 a logit of 20 is rounded to a multiple of 1/8, by trainer and rollout engine after sums in different orders,
so the two often differ by a whole step. The rollout engine's side is vLLM's own `head_dtype`
(rollout/vllm_command.py). Weights, and the gradient that leaves the head, are in the model's dtype as before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor


def compute_in_float32(head: ColumnParallelLinear) -> None:
    """Puts another product into Megatron's output layer, which keeps its parameter and its place in checkpoints."""
    assert head.bias is None and not head.gather_output
    head._forward_impl = float32_logits


def float32_logits(
    input: Tensor,
    weight: Tensor,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: dist.ProcessGroup | None,
    **_unused: Any,
) -> Tensor:
    """In the place of `ColumnParallelLinear._forward_impl`.

    Args:
        input: hidden states [N, 1, hidden], or this rank's part of them under sequence parallelism.
        weight: [V_part, hidden]; the embedding's where it is tied.
        allreduce_dgrad: the gradient of `input` is to be summed over the tensor group.
        sequence_parallel, tp_group: as Megatron's.

    Returns:
        float32 [N, 1, V_part], N being all positions.
    """
    hidden = input
    if sequence_parallel:
        hidden = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    elif allreduce_dgrad:
        hidden = copy_to_tensor_model_parallel_region(input, group=tp_group)
    return _Product.apply(hidden, weight)


class _Product(torch.autograd.Function):
    """z = h Wᵀ in float32; ∂h = ∂z W and ∂W = ∂zᵀ h in the dtype of the weight, as in a layer of that dtype."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        if not hidden.is_cuda or weight.dtype is torch.float32:
            return F.linear(hidden.float(), weight.float())
        flat = hidden.flatten(0, -2)  # the tensor cores' own sums, without a copy of the weight
        return torch.mm(flat, weight.t(), out_dtype=torch.float32).view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        (grad,) = grads
        hidden, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)
        trained = ctx.needs_input_grad[1]
        return grad @ weight, grad.flatten(0, -2).t() @ hidden.flatten(0, -2) if trained else None
