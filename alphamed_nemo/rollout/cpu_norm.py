"""RMSNorm by vLLM's own CPU kernels, which vLLM 0.32 gives to GPUs only.

On CPU it takes ten torch operators for each norm, a tenth of a decoding step of a small model. Registered where vLLM's
operators are meant to be extended; `server.py` asks for it by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphamed_nemo.rollout.server import CPU_NORM


def register() -> None:
    """Once a process."""
    import vllm.kernels  # noqa: F401  (loads the kernels)
    from vllm import ir

    if CPU_NORM in ir.ops.rms_norm.impls:
        return
    ir.ops.rms_norm.register_impl(CPU_NORM, supports_args=_norm_fits)(_rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(CPU_NORM, supports_args=_add_norm_fits, inplace=True)(_fused_add_rms_norm)


def _fits(weight: Tensor | None, variance_size: int | None, *inputs: Tensor) -> bool:
    """The kernels read whole rows of one dtype, one after the other."""
    if weight is None or variance_size is not None:
        return False
    return all(each.dtype == weight.dtype and each.is_contiguous() for each in inputs)


def _norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return _fits(weight, variance_size, x)


def _add_norm_fits(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(weight, variance_size, x, x_residual)


def _rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    output = torch.empty_like(x)
    torch.ops._C.rms_norm(output, x, weight, epsilon)
    return output


def _fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
