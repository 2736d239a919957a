"""GPU types, and the cluster that a plan is made for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphamed_nemo.config import Config
from alphamed_nemo.devices import BF16_TFLOPS

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU as its data sheet has it.

    Attributes:
        memory_gib: as CUDA reports it.
        bf16_tflops: dense, without sparsity.
        memory_tb_s: memory bandwidth.
        nvlink_gb_s: one direction.
    """

    memory_gib: float
    bf16_tflops: float
    memory_tb_s: float
    nvlink_gb_s: float


# NVIDIA's data sheets of H100 SXM and H200 SXM.
GPUS = {
    "h100": Gpu(79.1, BF16_TFLOPS["h100"], 3.35, 450.0),
    "h200": Gpu(139.8, BF16_TFLOPS["h200"], 4.8, 450.0),
}


@dataclass(frozen=True)
class Cluster:
    """The GPUs of one run.

    Attributes:
        trainer_gpus: tensor × pipeline × context × data.
        rollout_gpus: those that vLLM runs on: the trainer's own, or those of its servers' nodes.
        server_gpus: of one server.
        shared: whether they are the same GPUs.
    """

    gpu: Gpu
    trainer_gpus: int
    rollout_gpus: int
    server_gpus: int
    shared: bool
    gpus_per_node: int
    network_gb_s: float

    @property
    def gpus(self) -> int:
        return self.trainer_gpus + (0 if self.shared else self.rollout_gpus)

    @property
    def nodes(self) -> int:
        """Whole nodes: those that train, then those that only sample."""
        return self.training_nodes + (0 if self.shared else self.rollout_gpus // self.gpus_per_node)

    @property
    def training_nodes(self) -> int:
        return math.ceil(self.trainer_gpus / self.gpus_per_node)

    @property
    def idle(self) -> int:
        """GPUs of the training nodes that no rank uses."""
        return self.training_nodes * self.gpus_per_node - self.trainer_gpus

    def link_bytes_per_s(self, ranks: int, stride: int = 1) -> float:
        """Of one GPU in a group of `ranks` neighbours, `stride` apart: NVLink inside a node, else the network."""
        inside = ranks * stride <= self.gpus_per_node
        return (self.gpu.nvlink_gb_s if inside else self.network_gb_s) * 1e9


def cluster_of(cfg: Config) -> Cluster:
    """The cluster that `plan`, `parallel` and `rollout.placement` describe, as launch/allocation.py launches it.

    Raises:
        ValueError: numbers of GPUs that contradict each other.
    """
    plan, trainer = cfg.plan, cfg.parallel.world_size
    kind = GPUS[plan.gpu]
    gpu = Gpu(
        plan.memory_gib or kind.memory_gib,
        plan.bf16_tflops or kind.bf16_tflops,
        plan.memory_tb_s or kind.memory_tb_s,
        plan.nvlink_gb_s or kind.nvlink_gb_s,
    )
    shared = cfg.rollout.placement == "colocated"
    rollout = trainer if shared else cfg.rollout.servers * plan.gpus_per_node
    total = trainer + (0 if shared else rollout)
    if plan.gpus not in (0, total):
        raise ValueError(
            f"plan.gpus: found {plan.gpus}, but parallel has tensor × pipeline × context × data = {trainer} ranks and "
            f"rollout.placement={cfg.rollout.placement} adds {total - trainer} GPUs: set parallel.data so that they "
            "agree"
        )
    nodes = math.ceil(trainer / plan.gpus_per_node)
    if trainer % nodes:
        raise ValueError(
            f"parallel: {trainer} ranks cannot share {nodes} nodes of {plan.gpus_per_node} GPUs evenly; change "
            "parallel.data"
        )
    server = trainer // nodes if shared else plan.gpus_per_node
    if server % cfg.rollout.tensor:
        raise ValueError(
            f"rollout.tensor: {cfg.rollout.tensor} does not divide the {server} GPUs that a server of rollouts has"
        )
    return Cluster(gpu, trainer, rollout, server, shared, plan.gpus_per_node, plan.network_gb_s)
