"""Versions, the libraries that are loaded, and every collective that the project uses on a group of one rank."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.groups import joined
from tests.gpu.bench import Bench

PACKAGES = ("megatron-core", "transformer-engine", "flash-attn", "triton", "transformers", "vllm")
CUDNN = re.compile(r"(/\S*/libcudnn\.so\S*)$", re.MULTILINE)


def machine(bench: Bench) -> None:
    """Fails where two copies of cuDNN are in one process."""
    versions = {"Python": platform.python_version(), "torch": torch.__version__} | installed()
    bench.row("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        bench.row("card", f"{card.name}, {card.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}")
        torch.nn.functional.conv2d(*(torch.ones(1, 1, 3, 3, device="cuda") for _ in range(2)))  # loads cuDNN
        bench.row("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    if "transformer-engine" in versions:
        importlib.import_module("transformer_engine.pytorch")
    loaded = sorted(set(CUDNN.findall(Path("/proc/self/maps").read_text())))
    bench.row("libcudnn", f"{', '.join(loaded) or 'none'} ({torch.backends.cudnn.version()})")
    assert len(loaded) < 2, f"two copies of cuDNN are loaded: {loaded}"


def installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def collectives(bench: Bench) -> None:
    """Through Megatron's and torch's own groups, as policy/, grpo/ and the optimizer use them."""
    runtime.initialize(ParallelConfig())
    group = joined(parallel_state.get_data_parallel_group(with_context_parallel=True))
    values = torch.arange(8.0, device=runtime.device())

    def same(name: str, found: Tensor) -> None:
        assert torch.equal(found, values), f"{name}: {found.tolist()}"
        passed.append(name)

    passed: list[str] = []
    for name in ("SUM", "MAX", "MIN"):
        reduced = values.clone()
        dist.all_reduce(reduced, op=getattr(dist.ReduceOp, name), group=group)
        same(f"all_reduce {name}", reduced)
    scattered, gathered = torch.empty_like(values), torch.empty_like(values)
    dist.reduce_scatter_tensor(scattered, values.clone(), group=group)
    same("reduce_scatter_tensor", scattered)
    dist.all_gather_into_tensor(gathered, values, group=group)
    same("all_gather_into_tensor", gathered)
    parts = [torch.empty_like(values)]
    dist.gather(values, parts, dst=0, group=group)
    same("gather", parts[0])
    sent = values.clone()
    dist.broadcast(sent, src=0, group=group)
    same("broadcast", sent)
    objects: list = [values.tolist()]
    dist.broadcast_object_list(objects, src=0)
    same("broadcast_object_list", torch.tensor(objects[0], device=values.device))
    dist.all_gather_object(objects, values.tolist())
    same("all_gather_object", torch.tensor(objects[0], device=values.device))
    dist.barrier()
    host = values.cpu()
    dist.all_reduce(host, group=runtime.gloo_group())
    same("all_reduce of gloo", host.to(values.device))
    bench.row(f"collectives of {dist.get_backend(group)}, one rank", f"{len(passed)} agree: {', '.join(passed)}")
