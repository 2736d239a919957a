"""Each operation and its gradient beside the plain formula in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from alphamed_nemo.policy.local.operators import PackedRMSNorm, SwiGLU, rotate

HEADS, DIM = 4, 8


@pytest.fixture
def config() -> TransformerConfig:
    return TransformerConfig(num_layers=1, hidden_size=HEADS * DIM, num_attention_heads=HEADS)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_equal(found: Callable, expected: Callable, inputs: list[Tensor], dtype: torch.dtype, tolerance: float):
    """Values and gradients of `found` on inputs of `dtype` are those of `expected` in float64."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out, wanted = found(*leaves), expected(*exact)
    weights = random(*out.shape).to(out.dtype)
    out.backward(weights)
    wanted.backward(weights.double())
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)
    for leaf, each in zip(leaves, exact, strict=True):
        assert leaf.grad.dtype == dtype
        assert (leaf.grad.double() - each.grad).norm() < tolerance * each.grad.norm()


DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)


@DTYPES
def test_norm(config, dtype, tolerance):
    def found(x: Tensor, weight: Tensor) -> Tensor:
        norm = PackedRMSNorm(config, 32, eps=1e-2)
        del norm.weight
        norm.weight = weight
        return norm(x)

    def expected(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight

    assert_equal(found, expected, [random(6, 1, 32), random(32)], dtype, tolerance)


def test_norm_rounds_as_torch_does(config):
    x, weight = random(50, 1, 32).bfloat16(), random(32).bfloat16()
    norm = PackedRMSNorm(config, 32, eps=1e-5)
    norm.weight = torch.nn.Parameter(weight)
    assert torch.equal(norm(x), F.rms_norm(x, (32,), weight, 1e-5))


def test_norm_marks_its_weight_under_sequence_parallelism(config):
    assert PackedRMSNorm(config, 32).weight.sequence_parallel is False
    config.sequence_parallel = True
    assert PackedRMSNorm(config, 32).weight.sequence_parallel is True


@DTYPES
def test_swiglu(config, dtype, tolerance):
    def expected(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return gate * torch.sigmoid(gate) * up

    assert_equal(SwiGLU(config), expected, [random(6, 1, 24)], dtype, tolerance)


def test_swiglu_keeps_its_input_alone(config):
    kept: list[Tensor] = []
    x = random(6, 1, 24).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        SwiGLU(config)(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


@DTYPES
def test_rotation(dtype, tolerance):
    angles = random(6, 1, DIM // 2)

    def expected(x: Tensor) -> Tensor:
        pairs = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones(()).double(), angles.double())
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    assert_equal(lambda x: rotate(x, angles.cos(), angles.sin()), expected, [random(6, HEADS, DIM)], dtype, tolerance)
