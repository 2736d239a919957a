"""A run resumed with another optimizer setting trains by it, on the moments and the updates of its checkpoint."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.model import build_model
from alphamed_nemo.policy.optimizer import build_optimizer, wrap
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.random_weights import initialize_weights
from alphamed_nemo.policy.runtime import initialize
from tests.spawn import spawn

SIZES = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=48,
    vocab_size=20,
)
FIRST = OptimConfig(lr=0.1, schedule="cosine", weight_decay=0.05, clip_grad=1.0)
THEN = OptimConfig(
    lr=0.03, min_lr=0.001, schedule="linear", warmup_steps=2, weight_decay=0.3, beta1=0.8, beta2=0.99, eps=1e-5
)
DONE, STEPS = 4, 20  # the first run is complete: its cosine has come to 0


def rate(optim: OptimConfig, steps: int, step: int) -> float:
    """By the formula: the rate of update `step`, from 1, of a schedule over `steps`."""
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    share = (step - optim.warmup_steps) / (steps - optim.warmup_steps)
    left = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[optim.schedule]
    return optim.min_lr + (optim.lr - optim.min_lr) * left


def built(optim: OptimConfig, total_steps: int) -> SimpleNamespace:
    """What of a policy goes into a checkpoint."""
    initialize(ParallelConfig())
    chunks = build_model(SIZES, ModelConfig(dtype="float32"), ParallelConfig())
    initialize_weights(chunks, SIZES, 1)
    wrapped = wrap(chunks)
    optimizer, scheduler = build_optimizer(wrapped, optim, total_steps)
    return SimpleNamespace(model=wrapped, optimizer=optimizer, scheduler=scheduler)


def resumed(folder: str) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """The output matrix after both runs, the same by torch's AdamW in float64, and the rates of the second run."""
    generator = torch.Generator().manual_seed(0)
    policy, rates = built(FIRST, DONE), []
    exact = policy.model[0].module.output_layer.weight.detach().double().requires_grad_()
    reference = torch.optim.AdamW([exact])

    def update(optim: OptimConfig, steps: int, step: int) -> None:
        weight = policy.model[0].module.output_layer.weight
        gradient = torch.randn(weight.shape, generator=generator)
        weight.main_grad.copy_(gradient)
        norm = float(gradient.double().norm())
        exact.grad = gradient.double() / (max(1.0, norm / optim.clip_grad) if optim.clip_grad else 1.0)
        settings = {"betas": (optim.beta1, optim.beta2), "eps": optim.eps, "weight_decay": optim.weight_decay}
        reference.param_groups[0].update(settings, lr=rate(optim, steps, step))
        policy.scheduler.step(1)
        rates.append(policy.optimizer.param_groups[0]["lr"])
        policy.optimizer.step()
        reference.step()

    for step in range(1, DONE + 1):
        update(FIRST, DONE, step)
    checkpoint.save(policy, f"{folder}/step_{DONE}", {"step": DONE})
    policy = built(THEN, STEPS)
    checkpoint.load(policy, f"{folder}/step_{DONE}")
    rates.clear()
    for step in range(DONE + 1, STEPS + 1):
        update(THEN, STEPS, step)
    return policy.model[0].module.output_layer.weight.detach().clone(), exact.detach(), rates


def test_every_update_after_a_resume_is_that_of_the_new_settings(tmp_path):
    ((found, expected, rates),) = spawn(resumed, 1, str(tmp_path))
    assert rates == pytest.approx([rate(THEN, STEPS, step) for step in range(DONE + 1, STEPS + 1)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def extended(folder: str, after: int, steps: int) -> list[float]:
    """Rates after `after` updates of a cosine over DONE, in a run that is made longer."""
    policy = built(FIRST, DONE)
    policy.scheduler.step(after)
    checkpoint.save(policy, f"{folder}/step_{after}", {"step": after})
    policy = built(FIRST, steps)
    checkpoint.load(policy, f"{folder}/step_{after}")
    rates = []
    for _ in range(steps - after):
        policy.scheduler.step(1)
        rates.append(policy.optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(("after", "steps"), [(4, 20), (3, 5), (1, 4)])
def test_a_cosine_run_made_longer_goes_on_along_the_longer_cosine(tmp_path, after, steps):
    (rates,) = spawn(extended, 1, str(tmp_path), after, steps)
    assert rates == pytest.approx([rate(FIRST, steps, step) for step in range(after + 1, steps + 1)])
    assert all(value > 0 for value in rates[:-1])


def more_updates() -> list[float]:
    """Rates of a run that has made 4 updates of 4 and makes 8 more, in 4 steps of 2."""
    policy = built(FIRST, 16)
    policy.scheduler.step(4)
    MegatronPolicy.end_schedule_after(policy, 8)  # pyright: ignore[reportArgumentType]
    rates = []
    for _ in range(8):
        policy.scheduler.step(1)
        rates.append(policy.optimizer.param_groups[0]["lr"])
    return rates


def test_a_schedule_ends_with_the_run_when_a_step_makes_more_updates_than_before():
    (rates,) = spawn(more_updates, 1)
    assert rates == pytest.approx([rate(FIRST, 12, step) for step in range(5, 13)])
