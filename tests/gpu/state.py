"""A policy that is saved and resumed: weights, moments and random states, its optimizer on the device or off it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.packing import PackedBatch, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from tests.gpu import workload
from tests.gpu.bench import Bench


def checkpoint_and_resume(bench: Bench) -> None:
    """Two updates, saved; a resumed policy then makes the same third one, and draws the same random numbers."""
    size = "tiny" if bench.dry else "0.5B"
    folder = workload.write_config(bench.folder / "model", size)
    for offload in (False,) if bench.dry else (False, True):  # Megatron's optimizer on the host wants a device
        name = "optimizer on the host" if offload else "optimizer on the device"
        saved = bench.folder / name.replace(" ", "_") / "step_2"
        saved.parent.mkdir()
        policy, batches = trained(folder, offload, bench.dry)
        started = time.perf_counter()
        checkpoint.save(policy, saved, {"step": 2})
        seconds, size_gb = time.perf_counter() - started, sum(f.stat().st_size for f in saved.iterdir()) / 1e9
        expected = third_update(policy, batches)
        del policy
        workload.free()
        resumed = made(folder, offload, seed=2)
        checkpoint.load(resumed, saved)
        found = third_update(resumed, batches)
        del resumed
        workload.free()
        worst = max(float((found[0][name] - weight).abs().max()) for name, weight in expected[0].items())
        bench.row(f"{name}: saved", f"{size_gb:.2f} GB in {seconds:.1f} s")
        bench.row(f"{name}: largest difference of a weight after the resumed update", f"{worst:.1e}")
        assert found[1] == expected[1], f"random numbers after the resume: {found[1]}, expected {expected[1]}"
        assert worst <= 2**-8 * workload.RATE  # FusedAdam and the packed kernels may add up in another order


def made(folder: Path, offload: bool, seed: int) -> MegatronPolicy:
    optim = OptimConfig(lr=workload.RATE, offload=offload)
    return MegatronPolicy(ModelConfig(dtype="bfloat16"), ParallelConfig(), optim, folder, random_seed=seed)


def trained(folder: Path, offload: bool, dry: bool) -> tuple[MegatronPolicy, list[PackedBatch]]:
    policy = made(folder, offload, seed=1)
    rows = workload.sequences(4, 8, 16, 512) if dry else workload.sequences(8, 256, 512, workload.VOCAB)
    batches = pack(rows, 128 if dry else 4096)
    for _ in range(2):
        policy.train_step(batches, workload.loss_fn, workload.TEMPERATURE)
    return policy, batches


def third_update(policy: MegatronPolicy, batches: list[PackedBatch]) -> tuple[dict[str, torch.Tensor], list[float]]:
    """(weights after it, numbers from every generator whose state a checkpoint keeps, drawn before it)."""
    with get_cuda_rng_tracker().fork():
        inside = torch.rand(2, device=workload.device())
    numbers = [*torch.rand(2).tolist(), *inside.tolist(), random.random(), float(np.random.rand())]
    policy.train_step(batches, workload.loss_fn, workload.TEMPERATURE)
    return {name: tensor.cpu() for name, tensor in policy.hf_weights() if tensor is not None}, numbers
