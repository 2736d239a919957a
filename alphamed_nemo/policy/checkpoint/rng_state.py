"""Random states of all ranks, so that a resumed run draws what the uninterrupted one would have drawn."""

from __future__ import annotations

import io
import logging
import random
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker, get_cuda_rng_tracker

from alphamed_nemo.config import ParallelConfig

logger = logging.getLogger(__name__)


def layout() -> dict[str, int | None]:
    """How many ranks each kind of parallelism has in this run."""
    return asdict(
        ParallelConfig(
            tensor=parallel_state.get_tensor_model_parallel_world_size(),
            pipeline=parallel_state.get_pipeline_model_parallel_world_size(),
            data=parallel_state.get_data_parallel_world_size(),
            context=parallel_state.get_context_parallel_world_size(),
            virtual_pipeline=parallel_state.get_virtual_pipeline_model_parallel_world_size(),
        )
    )


def capture() -> bytes | None:
    """Collective. The states of all ranks as the content of one file on rank 0; None on the others."""
    everyone: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(_of_this_rank(), everyone, dst=0)
    if everyone is None:
        return None
    content = io.BytesIO()
    torch.save({"layout": layout(), "ranks": everyone}, content)
    return content.getvalue()


def restore(content: bytes) -> None:
    """Puts this rank's states back. In another layout the ranks mean something else: it warns and leaves them."""
    saved = torch.load(io.BytesIO(content), weights_only=True)
    if saved["layout"] != layout():
        logger.warning(
            "random states are not restored: the checkpoint was saved by layout %s, this run has %s",
            saved["layout"],
            layout(),
        )
        return
    state = saved["ranks"][dist.get_rank()]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    # Before the generators: on CPU Megatron's tracker reads and writes torch's own.
    _tracker().set_states(state["megatron"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _of_this_rank() -> dict[str, Any]:
    of_numpy = np.random.get_state()
    assert isinstance(of_numpy, tuple)  # a dictionary for generators of other kinds
    kind, keys, position, has_gauss, cached = of_numpy
    return {
        "python": random.getstate(),
        # int64, because tensors of NumPy's uint32 cannot be pickled
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "megatron": dict(_tracker().get_states()),
    }


def _tracker() -> CudaRNGStatesTracker:
    tracker = get_cuda_rng_tracker()
    assert tracker is not None, "policy.runtime.initialize comes first"
    return tracker
