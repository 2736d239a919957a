"""RMSNorm by vLLM's own CPU kernels, which vLLM 0.32 gives to GPUs only.

On CPU it takes ten torch operators for each norm, a tenth of a decoding step of a small model. Registered where vLLM's
operators are meant to be extended; `server.py` asks for it by name.

Compiled for processors without bfloat16 instructions, the kernels cut float32 off instead of rounding it: norms come
out smaller by half a unit in the last place on average, residuals by a quarter, which layers add up. So the kernels are
tried once in a process, and where they do not round, the float32 kernel computes and torch rounds.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from alphamed_nemo.rollout.vllm_command import CPU_NORM

LANES = 8  # values that the kernels read at once; rows of another multiple are refused by an exception
EPSILON = 1e-6
SLACK = 2.0**-20  # relative error of the kernels' own float32 arithmetic, with room

log = logging.getLogger(f"vllm.{__name__}")  # vLLM shows no other loggers than its own


def register() -> None:
    """Once a process."""
    from vllm import ir

    import_module("vllm.kernels")  # loads the kernels

    if CPU_NORM in ir.ops.rms_norm.impls:
        return
    ir.ops.rms_norm.register_impl(CPU_NORM, supports_args=_norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(CPU_NORM, supports_args=_add_norm_fits, inplace=True)(fused_add_rms_norm)


def log_choice() -> None:
    """Which kernels compute, where that is not vLLM's own choice. vLLM's loggers are set up after its plugins load."""
    if not kernels_round(torch.bfloat16):
        log.info("vLLM's kernels for this processor do not round to bfloat16: float32's compute norms and attention")


@cache
def kernels_round(dtype: torch.dtype) -> bool:
    """Whether both kernels, as compiled for this processor, give the nearest value of `dtype`; found by trying them.

    A sum of two values of `dtype` is exact in float64, and must be rounded as IEEE 754 says (ties to even). A norm is
    compared with float64's, on integers whose sums are exact in `dtype`: the kernels differ in whether they take the
    mean square before or after the sum is rounded.
    """
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randint(-64, 65, (16, 8 * LANES), generator=draw).to(dtype) for _ in range(2))
    weight = torch.randn(8 * LANES, generator=draw).to(dtype)
    normed = torch.empty_like(x)
    torch.ops._C.rms_norm(normed, x, weight, EPSILON)
    if not _is_nearest(normed, _exact_norm(x, weight)):
        return False
    exact = _exact_norm(x + residual, weight)
    torch.ops._C.fused_add_rms_norm(x, residual, weight, EPSILON)
    if not _is_nearest(x, exact):
        return False
    x, residual = (torch.randn(16, 8 * LANES, generator=draw).to(dtype) for _ in range(2))
    total = (x.double() + residual.double()).to(dtype)
    torch.ops._C.fused_add_rms_norm(x, residual, weight, EPSILON)
    return torch.equal(residual, total)


def _exact_norm(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * weight.double()


def _is_nearest(found: Tensor, exact: Tensor) -> bool:
    """Whether each value is as near to float64's as its dtype allows."""
    error, least = (found.double() - exact).abs(), (exact.to(found.dtype).double() - exact).abs()
    return bool((error <= least + SLACK * exact.abs()).all())


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """x / √(mean x² + ε) · weight over the last dimension, rounded once.

    Args:
        x: [..., hidden], contiguous, `hidden` a multiple of LANES.
        weight: [hidden], the dtype of `x`.
        epsilon: ε.
        variance_size: None (`_norm_fits` leaves others to vLLM).
    """
    output = torch.empty_like(x)
    if kernels_round(x.dtype):
        torch.ops._C.rms_norm(output, x, weight, epsilon)
        return output
    return output.copy_(_wide_norm(x, weight, epsilon))


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The norm of x + x_residual, in the memory of `x`, and the sum itself, in the memory of `x_residual`."""
    if kernels_round(x.dtype):
        torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    else:
        x.copy_(_wide_norm(x_residual.add_(x), weight, epsilon))
    return x, x_residual


def _wide_norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """In float32, which every kernel computes rightly."""
    assert weight is not None, "_fits leaves norms without a weight to vLLM"
    wide = x.float()
    normed = torch.empty_like(wide)
    torch.ops._C.rms_norm(normed, wide, weight.float(), epsilon)
    return normed


def _fits(weight: Tensor | None, variance_size: int | None, *inputs: Tensor) -> bool:
    """The kernels read whole rows of one dtype, one after the other, LANES values at a time."""
    if weight is None or variance_size is not None or len(weight) % LANES:
        return False
    return all(each.dtype == weight.dtype and each.is_contiguous() for each in inputs)


def _norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return _fits(weight, variance_size, x)


def _add_norm_fits(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(weight, variance_size, x, x_residual)
