"""vLLM's CPU kernels for RMSNorm, as the plugin registers them, beside float64."""

from __future__ import annotations

import pytest
import torch

from alphamed_nemo.rollout import cpu_norm
from alphamed_nemo.rollout.server import CPU_NORM

EPSILON = 1e-5


@pytest.fixture
def impls() -> dict[str, object]:
    from vllm import ir

    cpu_norm.register()
    cpu_norm.register()  # the plugin may run twice in one process
    return {name: getattr(ir.ops, name).impls[CPU_NORM] for name in ("rms_norm", "fused_add_rms_norm")}


def expected(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x, weight = x.double(), weight.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_the_kernels_compute_the_norm(impls: dict, dtype: torch.dtype, tolerance: float):
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(33, 96, generator=draw).mul(3).to(dtype) for _ in range(2))
    weight = torch.randn(96, generator=draw).to(dtype)
    norm, add_norm = impls["rms_norm"], impls["fused_add_rms_norm"]
    assert norm.supports_args(x, weight, EPSILON) and add_norm.supports_args(x, residual, weight, EPSILON)
    torch.testing.assert_close(
        norm.impl_fn(x, weight, EPSILON).double(), expected(x, weight), rtol=tolerance, atol=tolerance
    )
    total = x + residual
    normed, kept = add_norm.impl_fn(x.clone(), residual.clone(), weight, EPSILON)
    assert torch.equal(kept, total)
    torch.testing.assert_close(normed.double(), expected(total, weight), rtol=tolerance, atol=tolerance)


def test_what_the_kernels_cannot_read_is_left_to_vllm(impls: dict):
    x, weight = torch.randn(8, 64), torch.ones(64)
    fits = impls["rms_norm"].supports_args
    assert fits(x, weight, EPSILON)
    assert not fits(x.t().contiguous().t(), weight, EPSILON)
    assert not fits(x.split(32, dim=-1)[0], weight[:32], EPSILON)
    assert not fits(x.bfloat16(), weight, EPSILON)
    assert not fits(x, None, EPSILON)
    assert not fits(x, weight, EPSILON, 32)
    assert not impls["fused_add_rms_norm"].supports_args(x, x.t().contiguous().t(), weight, EPSILON)
