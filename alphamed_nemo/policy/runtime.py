"""Devices, process groups and random seeds of the policy's ranks: CUDA with NCCL, or CPU with gloo."""

from __future__ import annotations

import logging
import os
import random
from dataclasses import replace
from datetime import timedelta
from math import ceil

import numpy as np
import torch
import torch.distributed as dist

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.groups import joined
from alphamed_nemo.policy.local import cuda_on_cpu

logger = logging.getLogger(__name__)

# A rank waits this long for the others in a collective, unless `initialize` is told otherwise.
TIMEOUT = timedelta(hours=1)

_timeout = TIMEOUT
_layout: ParallelConfig | None = None


def device() -> torch.device:
    """This rank's device: its GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def initialize(parallel: ParallelConfig, seed: int = 1, timeout: timedelta = TIMEOUT) -> None:
    """Joins the process group and sets up Megatron's parallel state; a second call with the same layout does nothing.

    Reads torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) unless torch.distributed is
    already initialised; without these variables it is one process.

    Args:
        parallel: tensor × pipeline × context × data must equal the number of ranks.
        seed: of the generators of Python, NumPy, torch and Megatron; each pipeline and tensor rank derives its own from
            it. Checkpoints keep all four.
        timeout: of every process group, those of `gloo_group` included; torch's own is 10 minutes for NCCL and 30 for
            gloo. It has to be longer than the longest that one rank may keep the others waiting.

    Raises:
        ValueError: the layout does not fit the ranks, or asks for something that this device cannot do.
        RuntimeError: already initialised with another layout.
    """
    from megatron.core import parallel_state

    global _layout, _timeout
    if _layout is not None:
        if _layout != parallel:
            raise RuntimeError(f"already initialised with {_layout}; asked for {parallel}")
        return
    check(parallel)
    _timeout = timedelta(minutes=ceil(timeout / timedelta(minutes=1)))  # Megatron takes whole ones
    on_gpu = torch.cuda.is_available()
    # On GPUs, what is launched first then also starts first, which tensor parallelism relies on to overlap; without it
    # Megatron warns, on CPUs too.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        cuda_on_cpu.install()
        _share_cores()
    _join(on_gpu)
    if dist.get_world_size() != parallel.world_size:
        raise ValueError(
            f"parallel.tensor × pipeline × context × data = {parallel.tensor} × {parallel.pipeline} × "
            f"{parallel.context} × {parallel.data} = {parallel.world_size}, but {dist.get_world_size()} ranks run"
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline,
        context_parallel_size=parallel.context,
        # On CPU every group is a gloo group already.
        create_gloo_process_groups=on_gpu,
        distributed_timeout_minutes=_timeout // timedelta(minutes=1),
    )
    # It warns of its own existence on every rank; reruns of suspicious steps are not used here.
    logging.getLogger("megatron.core.rerun_state_machine").setLevel(logging.ERROR)
    _seed(seed)
    _layout = replace(parallel)


def gloo_group() -> dist.ProcessGroup:
    """A group of all ranks that touches no GPU stream, with the time limit of the others. Collective."""
    return joined(dist.new_group(backend="gloo", timeout=_timeout))


def check(parallel: ParallelConfig) -> None:
    """Refuses layouts that cannot work on this machine's devices.

    Raises:
        ValueError: with the key, what was found and what to do.
    """
    for name in ("tensor", "pipeline", "context", "data"):
        if getattr(parallel, name) < 1:
            raise ValueError(f"parallel.{name} is {getattr(parallel, name)}; expected 1 or more")
    if parallel.virtual_pipeline is not None and parallel.pipeline < 2:
        raise ValueError(
            f"parallel.virtual_pipeline is {parallel.virtual_pipeline} with parallel.pipeline={parallel.pipeline}; "
            "the interleaved schedule needs 2 stages or more: set virtual_pipeline to null"
        )
    if parallel.context > 1:
        raise ValueError(
            f"parallel.context is {parallel.context}; packed batches are not split over context-parallel ranks: "
            "set parallel.context=1 and use tensor parallelism with parallel.sequence=true for long sequences"
        )
    if parallel.sequence and parallel.tensor == 1:
        raise ValueError(
            "parallel.sequence is on with parallel.tensor=1; sequence parallelism splits over the tensor "
            "group: set parallel.sequence=false or parallel.tensor to 2 or more"
        )


def _share_cores() -> None:
    """Divides the machine's cores among its ranks unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))


def _join(on_gpu: bool) -> None:
    if dist.is_initialized():
        return
    backend = "nccl" if on_gpu else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=_timeout)
    else:
        # Public in torch's documentation, but missing in the module's list of what it exports.
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_timeout)


def _seed(seed: int) -> None:
    """Seeds as Megatron-LM does: pipeline stages differ, tensor ranks differ inside Megatron's tracker only."""
    from megatron.core import parallel_state, tensor_parallel

    seed += 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
