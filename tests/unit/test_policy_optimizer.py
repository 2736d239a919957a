import math

import pytest
import torch
from transformers import LlamaConfig

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.optimizer import build_optimizer, wrap
from tests.spawn import spawn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "vocab_size": 20,
}


def learning_rates(optim: dict, total_steps: int | None, steps: int) -> list[float]:
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.runtime import initialize

    initialize(ParallelConfig())
    chunks = wrap(build_model(LlamaConfig(**SIZES), ModelConfig(dtype="float32"), ParallelConfig()))
    optimizer, schedule = build_optimizer(chunks, OptimConfig(**optim), total_steps)
    rates = []
    for _ in range(steps):
        schedule.step(1)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_constant_rate_with_warm_up():
    (rates,) = spawn(learning_rates, 1, {"lr": 1.0, "warmup_steps": 4}, None, 6)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_cosine_and_linear_end_at_the_minimum():
    (rates,) = spawn(learning_rates, 1, {"lr": 1.0, "min_lr": 0.2, "schedule": "cosine"}, 8, 9)
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(1, 9)] + [0.2]
    assert rates == pytest.approx(expected)
    (rates,) = spawn(learning_rates, 1, {"lr": 1.0, "schedule": "linear", "warmup_steps": 2}, 4, 4)
    assert rates == pytest.approx([0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("optim", "total_steps", "message"),
    [
        ({"schedule": "step"}, 10, "optim.schedule is 'step'"),
        ({"schedule": "cosine"}, None, "needs the number of optimizer steps"),
        ({"schedule": "linear", "warmup_steps": 10}, 10, "optim.warmup_steps is 10"),
        ({"lr": 1e-6, "min_lr": 1e-5}, None, "optim.min_lr is 1e-05"),
    ],
)
def test_schedules_that_cannot_work_are_refused(optim, total_steps, message):
    with pytest.raises(RuntimeError, match=message):
        spawn(learning_rates, 1, optim, total_steps, 1)


def one_update(weight_decay: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights before and after one update, and the gradient, of the output matrix."""
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.random_weights import initialize_weights
    from alphamed_nemo.policy.runtime import initialize

    initialize(ParallelConfig())
    built = build_model(LlamaConfig(**SIZES), ModelConfig(dtype="float32"), ParallelConfig())
    initialize_weights(built, LlamaConfig(**SIZES), 1)
    chunks = wrap(built)
    optim = OptimConfig(lr=0.1, weight_decay=weight_decay, clip_grad=0.0)
    optimizer, schedule = build_optimizer(chunks, optim)
    weight = chunks[0].module.output_layer.weight
    before = weight.detach().clone()
    weight.main_grad.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    gradient = weight.main_grad.clone()
    schedule.step(1)
    _, norm, _ = optimizer.step()
    assert norm == pytest.approx(float(gradient.norm()), rel=1e-5)  # measured although clipping is off
    return before, weight.detach().clone(), gradient


def test_one_update_is_adamw():
    before, after, gradient = spawn(one_update, 1, 0.01)[0]
    # The first step of Adam is lr · g / (|g| + eps), after decoupled decay by lr · weight_decay.
    expected = before * (1 - 0.1 * 0.01) - 0.1 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)


def updates(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The output matrix after `count` updates with clipping, and after as many of torch's AdamW in float64."""
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.random_weights import initialize_weights
    from alphamed_nemo.policy.runtime import initialize

    initialize(ParallelConfig())
    built = build_model(LlamaConfig(**SIZES), ModelConfig(dtype="float32"), ParallelConfig())
    initialize_weights(built, LlamaConfig(**SIZES), 1)
    chunks = wrap(built)
    optim = OptimConfig(lr=0.1, weight_decay=0.05, clip_grad=1.0)
    optimizer, schedule = build_optimizer(chunks, optim)
    weight = chunks[0].module.output_layer.weight
    exact = weight.detach().double().requires_grad_()
    reference = torch.optim.AdamW(
        [exact], lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, weight_decay=optim.weight_decay
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        gradient = torch.randn(weight.shape, generator=generator)
        weight.main_grad.copy_(gradient)
        exact.grad = gradient.double() / max(1.0, float(gradient.double().norm()))
        schedule.step(1)
        optimizer.step()
        reference.step()
    return weight.detach().clone(), exact.detach()


def test_many_updates_follow_adamw_in_float64():
    ((found, expected),) = spawn(updates, 1, 10)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
