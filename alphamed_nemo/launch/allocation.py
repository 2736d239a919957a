"""The nodes and GPUs of a Slurm job, and whether a parallel layout fits them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from alphamed_nemo.config import Config


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave the job, as slurm/common.sh says in the environment.

    Attributes:
        nodes: host names, in the order of the allocation.
        gpus: on each node; 0: a CPU run.
        cpus: on each node.
        rollout_nodes: the last so many nodes serve rollouts and train nothing; 0: the server shares the first node.
        port: first of this job's ports: the ranks' rendezvous, then vLLM, then rewards.
        attempt: names the folder of this attempt's logs; unique for each start of each job.
    """

    nodes: tuple[str, ...]
    gpus: int
    cpus: int
    rollout_nodes: int
    port: int
    attempt: str

    @classmethod
    def from_environment(cls) -> Allocation:
        return cls(
            nodes=tuple(os.environ["ALPHAMED_NODES"].split()),
            gpus=int(os.environ["ALPHAMED_GPUS_PER_NODE"]),
            cpus=int(os.environ["ALPHAMED_CPUS_PER_NODE"]),
            rollout_nodes=int(os.environ["ALPHAMED_ROLLOUT_NODES"]),
            port=int(os.environ["ALPHAMED_PORT"]),
            attempt=os.environ["ALPHAMED_ATTEMPT"],
        )

    @property
    def training(self) -> tuple[str, ...]:
        return self.nodes[: len(self.nodes) - self.rollout_nodes]

    @property
    def rollout(self) -> str:
        return self.nodes[-1] if self.rollout_nodes else self.nodes[0]


def check_allocation(cfg: Config, allocation: Allocation) -> int:
    """Ranks on each training node.

    Raises:
        ValueError: the layout needs another number of nodes or GPUs.
    """
    parallel, gpus = cfg.parallel, allocation.gpus
    ranks, nodes = parallel.world_size, len(allocation.training)
    layout = f"tensor {parallel.tensor} × pipeline {parallel.pipeline} × data {parallel.data} = {ranks} ranks"
    if allocation.rollout_nodes not in (0, 1):
        raise ValueError(f"ALPHAMED_ROLLOUT_NODES: found {allocation.rollout_nodes}, expected 0 or 1: one server a run")
    if nodes < 1:
        raise ValueError(
            "the only node is for rollouts; sbatch --nodes=2, or ALPHAMED_ROLLOUT_NODES=0 to share its GPUs"
        )
    if ranks % nodes:
        raise ValueError(
            f"parallel: {layout}, which {nodes} training nodes of {len(allocation.nodes)} cannot share evenly; change "
            "parallel.data, or sbatch --nodes"
        )
    per_node, taken = ranks // nodes, 0 if allocation.rollout_nodes else cfg.rollout.world_size
    if not gpus:
        return per_node
    if cfg.rollout.transfer == "ipc":
        raise ValueError("rollout.transfer: ipc shares one set of GPUs, which the Slurm jobs do not do; use nccl")
    if taken and nodes > 1:
        raise ValueError("ALPHAMED_ROLLOUT_NODES: found 0 with several nodes of GPUs; give the server a node: 1")
    if max(per_node + taken, cfg.rollout.world_size) > gpus:
        raise ValueError(
            f"parallel: {layout} on {nodes} nodes and rollout.tensor={cfg.rollout.tensor} × "
            f"rollout.engines={cfg.rollout.engines} need more than the {gpus} GPUs of a node; "
            f"sbatch --nodes={-(-ranks // gpus) + max(1, allocation.rollout_nodes)} with "
            "ALPHAMED_ROLLOUT_NODES=1, or change the layout"
        )
    return per_node
