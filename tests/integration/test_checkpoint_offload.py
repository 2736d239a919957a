"""Checkpoints of the optimizer that works on the host (`optim.offload`), on a CPU that plays both devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

import pytest
import torch

from alphamed_nemo.config import ParallelConfig
from tests.integration.policy_runs import OPTIM, build, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

Weights = dict[str, torch.Tensor]


class OnHost(torch.Tensor):
    """A tensor in host memory, as is all that is computed from one. In a file it is a tensor like any other."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self.as_subclass(torch.Tensor).__reduce_ex__(protocol)


def two_devices() -> None:
    """For Megatron's optimizer alone, which tells the host's tensors from the device's by `is_cuda` and pins them."""
    from megatron.core.optimizer import optimizer_config

    is_cuda, cpu = torch.Tensor.is_cuda, torch.Tensor.cpu

    def asked_by_the_optimizer() -> bool:
        return sys._getframe(2).f_code.co_filename.endswith("hybrid_optimizer.py")

    def on_device(self: torch.Tensor) -> bool:
        return not isinstance(self, OnHost) if asked_by_the_optimizer() else is_cuda.__get__(self)

    def to_host(self: torch.Tensor) -> torch.Tensor:
        return self.clone().as_subclass(OnHost) if asked_by_the_optimizer() else cpu(self)

    optimizer_config.is_te_min_version = lambda _version: False  # it asks although there is no Transformer Engine
    torch.Tensor.is_cuda, torch.Tensor.cpu = property(on_device), to_host
    torch.Tensor.pin_memory = lambda self, *_: self


def resumed(hf: str, folder: str, data: int, offload: bool, offload_later: bool) -> list[tuple[Weights, int]]:
    """(weights after the fourth update, bytes of the optimizer's state) of a run that saves before the first update and
    after the second, and of one that resumes from each of these."""
    from alphamed_nemo.policy.checkpoint import folder as checkpoint

    policy = made(hf, data, offload)
    checkpoint.save(policy, Path(folder, "step_0"), {})
    for step in range(1, 5):
        train(policy, step)
        if step == 2:
            checkpoint.save(policy, Path(folder, "step_2"), {})
    found = [(weights_of(policy), state_bytes(policy))]
    for step in (2, 0):
        policy = made(hf, data, offload_later)
        checkpoint.load(policy, Path(folder, f"step_{step}"))
        size = state_bytes(policy)
        for later in range(step + 1, 5):
            train(policy, later)
        found.append((weights_of(policy), size))
    return found


def made(hf: str, data: int, offload: bool):
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    if offload:
        two_devices()
    policy = build(hf, ParallelConfig(data=data), "bfloat16", replace(OPTIM, offload=offload))
    inner = policy.optimizer.chained_optimizers[0].optimizer
    assert isinstance(inner, HybridDeviceOptimizer) is offload
    if offload:
        assert inner.gpu_optimizer is None and len(inner.cpu_optimizers) > 10
    return policy


def state_bytes(policy) -> int:
    """Memory behind the optimizer's state of this rank, each storage once."""
    states = policy.optimizer.chained_optimizers[0].optimizer.state.values()
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in states
        for value in state.values()
        if isinstance(value, torch.Tensor)
    }
    return sum(storages.values())


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hf")
    write_model(folder, "llama")
    return str(folder)


@pytest.mark.parametrize("data", [1, 2])
def test_a_run_with_its_optimizer_on_the_host_resumes_exactly(hf: str, tmp_path: Path, data: int) -> None:
    (expected, size), *others = spawn(resumed, data, hf, str(tmp_path), data, True, True)[0]
    for found, loaded in others:
        assert loaded == size  # and not of the whole checkpoint
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("offload", [True, False], ids=["to the device", "to the host"])
def test_the_place_of_the_optimizer_may_change_at_a_resume(hf: str, tmp_path: Path, offload: bool) -> None:
    (expected, _), *others = spawn(resumed, 1, hf, str(tmp_path), 1, offload, not offload)[0]
    for found, _ in others:
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-4)  # an ulp of bfloat16: other kernels
