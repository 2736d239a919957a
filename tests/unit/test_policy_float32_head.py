"""The head with logits in float32 against float64, and against Megatron's own head of the model's dtype."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alphamed_nemo.policy.float32_head import float32_logits

POSITIONS, HIDDEN, VOCABULARY = 48, 320, 1000


def head(hidden: Tensor, weight: Tensor) -> Tensor:
    return float32_logits(hidden, weight, allreduce_dgrad=False, sequence_parallel=False, tp_group=None)


@pytest.fixture
def values() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and the gradient of the logits, bfloat16: logits to about 30, as a trained model's."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, 1, HIDDEN, generator=draw).bfloat16()
    weight = (0.5 * torch.randn(VOCABULARY, HIDDEN, generator=draw)).bfloat16()
    return hidden, weight, torch.randn(POSITIONS, 1, VOCABULARY, generator=draw)


def test_logits_are_as_exact_as_float32_and_those_in_bfloat16_are_not(values: tuple[Tensor, ...]) -> None:
    hidden, weight, _ = values
    exact = F.linear(hidden.double(), weight.double())
    logits = head(hidden, weight)
    assert logits.dtype is torch.float32 and logits.shape == exact.shape
    assert exact.abs().max() > 25
    assert (logits - exact).abs().max() < 1e-5 * exact.abs().max()
    assert (F.linear(hidden, weight) - exact).abs().max() > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_float64s_rounded_to_the_models_dtype(values: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    *inputs, of_logits = values
    own = [each.to(dtype, copy=True).requires_grad_() for each in inputs]
    exact = [each.double().requires_grad_() for each in inputs]
    head(*own).backward(of_logits)
    F.linear(*exact).backward(of_logits.double())
    limit = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    for found, expected in zip(own, exact, strict=True):
        assert found.grad is not None and expected.grad is not None
        assert found.grad.dtype is dtype
        assert (found.grad.double() - expected.grad).norm() < limit * expected.grad.norm()
