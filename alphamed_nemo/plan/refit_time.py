"""How long a refit takes: the source gathers buckets of weights, and a carrier hands them to vLLM, which loads them.

The choreography is that of rollout/carriers: the next bucket is gathered while the last one is on its way and loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from alphamed_nemo.config import Config
from alphamed_nemo.plan.hardware import Cluster
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import ELEMENT

BUCKET = 2**30  # bytes that are on their way at once


@dataclass(frozen=True)
class Received:
    """Bytes of full weights that a rank receives from others, by link.

    Attributes:
        tensor: from the ranks of its tensor-parallel group.
        stages: from other pipeline stages.
    """

    tensor: float
    stages: float


@dataclass(frozen=True)
class Refit:
    """Bytes of the whole model as it travels, and the seconds that this takes.

    Attributes:
        source: seconds to gather everything.
        carrier: seconds to broadcast everything to the engines; 0 where they read the ranks' own memory.
        loading: seconds in which an engine loads everything.
        fixed: seconds of what does not depend on the bytes.
    """

    bytes: float
    source: float
    carrier: float
    loading: float
    fixed: float

    @property
    def seconds(self) -> float:
        """The slower half sets the pace, once the first bucket is there."""
        first = self.source * min(1.0, BUCKET / self.bytes)
        return self.fixed + first + max(self.source, self.carrier + self.loading)


def plan_refit(cfg: Config, cluster: Cluster, model: Model) -> Refit:
    """Of this placement: a broadcast from rank 0 to engines on GPUs of their own, or every rank for the engine on its
    own GPU."""
    plan, parallel = cfg.plan, cfg.parallel
    size = model.parameters * ELEMENT[cfg.model.dtype]
    received = everywhere(size, parallel.tensor, parallel.pipeline)
    received = received if cluster.shared else on_rank0(size, parallel.tensor, parallel.pipeline)
    stride = parallel.tensor * parallel.context * parallel.data  # ranks between two stages
    tensor = cluster.link_bytes_per_s(parallel.tensor) * plan.link_efficiency
    stages = cluster.link_bytes_per_s(parallel.pipeline, stride) * plan.link_efficiency
    source = received.tensor / tensor + received.stages / stages
    away = cluster.link_bytes_per_s(cluster.gpus) * plan.link_efficiency
    passes = plan.refit_memory_passes * size / (cluster.gpu.memory_tb_s * 1e12)
    loading = passes + model.tensors * plan.refit_tensor_ms * 1e-3
    return Refit(size, source, 0.0 if cluster.shared else size / away, loading, plan.refit_fixed_s)


def on_rank0(size: float, tensor: int, pipeline: int) -> Received:
    """What rank 0 receives to have all weights: its stage's from its tensor-parallel group, the rest from other stages
    (policy/weights/stream.py)."""
    return Received(size / pipeline * (1 - 1 / tensor), size * (1 - 1 / pipeline))


def everywhere(size: float, tensor: int, pipeline: int) -> Received:
    """What every rank receives to have all weights. While one stage gathers a bucket the others wait for it, so the
    whole model passes the tensor-parallel links once, and the links between stages once
    (policy/weights/everywhere.py)."""
    return Received(size * (1 - 1 / tensor), size if pipeline > 1 else 0.0)
