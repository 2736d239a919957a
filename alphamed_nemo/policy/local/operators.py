"""Norm, activation and rotary embedding for Megatron's local layer spec (no Transformer Engine).

Each is one autograd function that computes its own gradient: a third to a half of the passes over memory that autograd
makes of the same formulas, which on CPU is their time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

_MARK = "sequence_parallel"  # Megatron's, on parameters


class PackedRMSNorm(torch.nn.Module):
    """RMSNorm that can sit inside a sequence-parallel region, which Megatron's local norm refuses.

    Its weight [hidden] is marked, so that Megatron sums the gradients over the tensor group, each of whose ranks
    normalises its own part of the tokens.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_unused: object) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        setattr(self.weight, _MARK, config.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] → the same shape and dtype; the mean square is taken in float32."""
        return _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """y = x̂·w with x̂ = x·r and r = 1 / √(mean x² + ε); ∂x = r·(∂y·w − x̂·mean(∂y·w·x̂)), ∂w = Σ ∂y·x̂."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        r = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps)).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (wide * r).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, weight, r = ctx.saved_tensors
        wide, normed = weight.float(), x.float() * r
        of_y = grad.to(torch.float32, copy=True)
        product = (of_y * normed).flatten(0, -2)
        mean = (product @ wide).div_(x.shape[-1]).view(r.shape)
        of_x = of_y.mul_(wide).addcmul_(normed, mean, value=-1).mul_(r)
        return of_x.to(x.dtype), product.sum(dim=0).to(weight.dtype), None


class SwiGLU(MegatronModule):
    """silu(a)·b, where a is the first half of the last dimension and b the second; [..., 2·ffn] → [..., ffn]."""

    def forward(self, x: Tensor) -> Tensor:
        return _SwiGLU.apply(x)


class _SwiGLU(torch.autograd.Function):
    """Keeps its input alone: silu(a), an eighth of all activations, is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        of_x = torch.empty_like(x)
        of_gate, of_up = of_x.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=of_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
        return of_x


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding, halves paired as in Llama.

    Args:
        x: [T, heads, head dimension].
        cos, sin: float32 [T, 1, head dimension / 2].

    Returns:
        float32, the shape of x.
    """
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    """A rotation; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotated(x.float(), cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin).to(ctx.dtype), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotated = torch.empty_like(x)
    (a, b), (of_a, of_b) = x.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    torch.mul(a, cos, out=of_a).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=of_b).addcmul_(a, sin)
    return rotated
