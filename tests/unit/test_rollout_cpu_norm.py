"""vLLM's CPU kernels for RMSNorm, as the plugin registers them, beside float64.

vLLM ships its kernels compiled for AVX2, for AVX-512 and for AVX-512 with bfloat16, and loads those of the processor.
Here each that the processor can run is loaded in a process of its own.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphamed_nemo.processor import this_processor
from alphamed_nemo.rollout.inside_vllm import cpu_norm
from alphamed_nemo.rollout.inside_vllm.cpu_kernels import apply_limits
from alphamed_nemo.rollout.vllm_command import CPU_NORM
from tests.spawn import spawn

EPSILON = 1e-5
ROWS, HIDDEN = 129, 96
KERNELS = {"_C_AVX2": "AVX2", "_C_AVX512": "AVX-512", "_C": "AVX-512 BF16"}  # what each is compiled for


@pytest.fixture
def impls() -> dict[str, object]:
    apply_limits()
    from vllm import ir

    cpu_norm.register()
    cpu_norm.register()  # the plugin may run twice in one process
    return {name: getattr(ir.ops, name).impls[CPU_NORM] for name in ("rms_norm", "fused_add_rms_norm")}


def exact(x: Tensor, weight: Tensor) -> Tensor:
    x, weight = x.double(), weight.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(ROWS, HIDDEN, generator=draw).mul(3).to(dtype) for _ in range(2))
    return x, residual, torch.randn(HIDDEN, generator=draw).to(dtype)


def with_kernels(library: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, bool]:
    """(norm, norm of the sum, sum) by the kernels of one of vLLM's libraries, and whether they round by themselves."""
    torch.ops.load_library(Path(find_spec("vllm").origin).with_name(f"{library}.abi3.so"))
    x, residual, weight = inputs(dtype)
    normed = cpu_norm.rms_norm(x, weight, EPSILON)
    return normed, *cpu_norm.fused_add_rms_norm(x, residual, weight, EPSILON), cpu_norm.kernels_round(dtype)


def bias(found: Tensor, wanted: Tensor) -> float:
    """Mean error away from zero, in units of bfloat16's last place: -0.5 where the rest is cut off."""
    _, exponent = torch.frexp(wanted)
    return ((found.double().abs() - wanted.abs()) / torch.exp2(exponent - 8)).mean().item()


@pytest.mark.parametrize("library", KERNELS)
def test_on_every_processor_bfloat16_is_rounded(library: str):
    if KERNELS[library] not in this_processor().instructions:
        pytest.skip(f"{this_processor()}: no {KERNELS[library]}, which vLLM's {library} is compiled for")
    ((normed, add_normed, total, by_kernels),) = spawn(with_kernels, 1, library, torch.bfloat16)
    x, residual, weight = inputs(torch.bfloat16)
    assert by_kernels == (library == "_C")
    assert torch.equal(total, x + residual)
    for found, wanted in ((normed, exact(x, weight)), (add_normed, exact(total, weight))):
        off = found != wanted.bfloat16()  # the fused kernel may take the mean square before the sum is rounded
        assert off.float().mean() < 0.1
        assert abs(bias(found, wanted)) < 0.02


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_the_kernels_compute_the_norm(impls: dict, dtype: torch.dtype, tolerance: float):
    x, residual, weight = inputs(dtype)
    norm, add_norm = impls["rms_norm"], impls["fused_add_rms_norm"]
    assert norm.supports_args(x, weight, EPSILON) and add_norm.supports_args(x, residual, weight, EPSILON)
    torch.testing.assert_close(
        norm.impl_fn(x, weight, EPSILON).double(), exact(x, weight), rtol=tolerance, atol=tolerance
    )
    total = x + residual
    normed, kept = add_norm.impl_fn(x.clone(), residual.clone(), weight, EPSILON)
    assert torch.equal(kept, total)
    torch.testing.assert_close(normed.double(), exact(total, weight), rtol=tolerance, atol=tolerance)


def test_what_the_kernels_cannot_read_is_left_to_vllm(impls: dict):
    x, weight = torch.randn(8, 64), torch.ones(64)
    fits = impls["rms_norm"].supports_args
    assert fits(x, weight, EPSILON)
    assert not fits(x.t().contiguous().t(), weight, EPSILON)
    assert not fits(x.split(32, dim=-1)[0], weight[:32], EPSILON)
    assert not fits(x.bfloat16(), weight, EPSILON)
    assert not fits(torch.randn(8, 60), torch.ones(60), EPSILON)
    assert not fits(x, None, EPSILON)
    assert not fits(x, weight, EPSILON, 32)
    assert not impls["fused_add_rms_norm"].supports_args(x, x.t().contiguous().t(), weight, EPSILON)
