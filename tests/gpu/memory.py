"""Memory that two processes of one GPU share (CUDA IPC), and memory that is given back and taken again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.multiprocessing as multiprocessing

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.packing import pack
from alphamed_nemo.policy.policy import MegatronPolicy
from tests.gpu import workload
from tests.gpu.bench import Bench

T = TypeVar("T")

BUCKET = 32 * 2**20  # bytes


def cuda_ipc(bench: Bench) -> None:
    """Buckets from one process to another, the sender's memory overwritten as soon as the receiver has copied it."""
    size, count = (2**12, 4) if bench.dry else (BUCKET, 64)
    context = multiprocessing.get_context("fork" if bench.dry else "spawn")
    here, there = context.Pipe()
    receiver = context.Process(target=receive, args=(there, count), daemon=True)
    receiver.start()
    there.close()
    bucket = torch.empty(size, dtype=torch.uint8, device=workload.device())
    started = 0.0
    for index in range(count):
        bucket.fill_(index)
        workload.synchronize()
        here.send(bucket)
        assert here.recv() == index  # it has its copy
        bucket.fill_(255)  # what a refit does with the next weights
        if index == 0:  # the first one opens the handle and starts CUDA there
            started = time.perf_counter()
    workload.synchronize()
    seconds = time.perf_counter() - started
    here.send(None)
    kept = here.recv()
    assert kept == list(range(count)), f"the copies changed with the sender's memory: {kept}"
    receiver.join(30)
    rate = (count - 1) * size / seconds / 1e9
    bench.row(f"{count} buckets of {size / 2**20:.3g} MiB", f"{rate:.1f} GB/s, none changed by what overwrote it")


def receive(connection: Any, count: int) -> None:
    """Copies what comes; at the end says what each copy holds."""
    copies = []
    for _ in range(count):
        shared = connection.recv()
        copies.append(shared.clone())
        workload.synchronize()
        del shared
        connection.send(int(copies[-1][-1]))
    assert connection.recv() is None
    connection.send([int(copy.amin()) if copy.amin() == copy.amax() else -1 for copy in copies])


def offload(bench: Bench) -> None:
    """Gradients and optimizer state away and back: the same next update, bytes given back and the rate."""
    size = "tiny" if bench.dry else "1.5B"
    folder = workload.write_config(bench.folder / "model", size)
    model, optim = ModelConfig(dtype="bfloat16"), OptimConfig(lr=workload.RATE)
    rows = workload.sequences(3, 8, 16, 512) if bench.dry else workload.sequences(8, 128, 256, workload.VOCAB)
    weights = []
    for away in (False, True):
        policy = MegatronPolicy(model, ParallelConfig(), optim, folder, random_seed=1)
        assert policy.offload is not None
        batches = pack(rows, 128 if bench.dry else 4096)
        for update in range(4):
            if away and update:
                workload.free()
                before = workload.allocated()
                gone, given = timed(policy.offload.give_back)
                freed = before - workload.allocated()
                back, _ = timed(policy.offload.take)
                if update == 3:  # host memory is pinned in the first round
                    moved = given.optimizer / 1e9
                    bench.row("given back", f"{(given.gradients + given.optimizer) / 2**30:.2f} GiB")
                    bench.row("of these really free on the device", f"{freed / 2**30:.2f} GiB")
                    bench.row("optimizer state away, back", f"{moved / gone:.1f} GB/s, {moved / back:.1f} GB/s")
                    assert bench.dry or freed >= given.gradients + given.optimizer
            policy.train_step(batches, workload.loss_fn, workload.TEMPERATURE)
        weights.append({name: tensor.cpu() for name, tensor in policy.hf_weights() if tensor is not None})
        del policy, batches
        workload.free()
    worst = max(float((weights[1][name] - weight).abs().max()) for name, weight in weights[0].items())
    bench.row("largest difference of a weight after three rounds", f"{worst:.1e}")
    assert worst <= 2**-8 * workload.RATE


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """(seconds, result)."""
    workload.synchronize()
    started = time.perf_counter()
    result = call()
    workload.synchronize()
    return time.perf_counter() - started, result
