"""Refit: Megatron's shards on every rank → vLLM serving the new weights, beside a plain copy of the same bytes.

torchrun -m benchmarks.refit MODEL_FOLDER DTYPE TENSOR PIPELINE URL REPEATS OUTPUT.json
with the server's key in the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from alphamed_nemo.config import ModelConfig, ParallelConfig, RolloutConfig
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights.stream import of_rank0
from alphamed_nemo.policy.weights.table import hf_shapes
from alphamed_nemo.rollout.connection import Connection, connect
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest

KEY = "ALPHAMED_ROLLOUT_API_KEY"


def main(model: str, dtype: Dtype, tensor: int, pipeline: int, url: str, repeats: int) -> dict | None:
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline)
    policy = MegatronPolicy(ModelConfig(path=model, dtype=dtype), parallel, None, model)
    manifest = Manifest(hf_shapes(policy.hf_config), dtype)
    cfg = RolloutConfig(urls=[url], api_key=os.environ[KEY])
    connections = connect(cfg)
    transfer = WeightTransfer(connections, cfg, manifest) if dist.get_rank() == 0 else None
    calls = _timed(connections[0])
    found: dict[str, list[float]] = defaultdict(list)
    size = 0
    for version in range(1, repeats + 2):
        dist.barrier()
        started = time.perf_counter()
        for _ in policy.hf_weights(copies=False):
            pass
        source = time.perf_counter() - started
        dist.barrier()
        calls.clear()
        started = time.perf_counter()
        weights = policy.hf_weights(copies=False)
        if transfer is None:
            for _ in weights:
                pass
        else:
            size = transfer.refit(of_rank0(weights), version).bytes
            if version > 1:  # the first maps the segment's pages
                seconds = time.perf_counter() - started
                load = calls["/update_weights"] + calls["/finish_weight_update"]
                parts = {"source": source, "load": load, "calls": sum(calls.values()) - load}
                parts |= {"carrier": seconds - sum(parts.values()), "memcpy": _copy_seconds(size), "whole": seconds}
                for part, value in parts.items():
                    found[part].append(value)
    return None if transfer is None else {"seconds": found, "bytes": size}


def _timed(connection: Connection) -> dict[str, float]:
    """Seconds in each of its calls from now on, by path."""
    seconds: dict[str, float] = defaultdict(float)
    call = connection.call

    def timed(method: str, path: str, *given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(method, path, *given, **named)
        finally:
            seconds[path] += time.perf_counter() - started

    connection.call = timed
    return seconds


def _copy_seconds(size: int) -> float:
    """Of one copy of `size` bytes between two places that are mapped already."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    started = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - started


if __name__ == "__main__":
    found = main(
        sys.argv[1], cast(Dtype, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6])
    )
    if found is not None:
        Path(sys.argv[7]).write_text(json.dumps(found))
