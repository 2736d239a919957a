"""The nodes and GPUs of a Slurm job, and what of a run goes where on them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import get_args

from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import GpuType


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave the job, as slurm/common.sh says in the environment.

    Attributes:
        nodes: host names, in the order of the allocation.
        gpus: on each node; 0: a CPU run.
        cpus: on each node.
        rollout_nodes: ALPHAMED_ROLLOUT_NODES: the last so many nodes serve rollouts and train nothing; 0: servers share
            the trainer's nodes; None: as `rollout.placement` and `rollout.servers` say.
        port: first of this job's ports: the ranks' rendezvous, then vLLM, then rewards.
        attempt: names the folder of this attempt's logs; unique for each start of each job.
        card: what Slurm calls the GPUs; empty: it does not say.
    """

    nodes: tuple[str, ...]
    gpus: int
    cpus: int
    rollout_nodes: int | None
    port: int
    attempt: str
    card: str = ""

    @classmethod
    def from_environment(cls) -> Allocation:
        """As slurm/common.sh has described it.

        Raises:
            ValueError: ALPHAMED_ROLLOUT_NODES is no number.
        """
        rollout_nodes = os.environ.get("ALPHAMED_ROLLOUT_NODES", "")
        if rollout_nodes and not rollout_nodes.isdecimal():
            raise ValueError(f"ALPHAMED_ROLLOUT_NODES: found {rollout_nodes!r}, expected a number of nodes, 0 to share")
        return cls(
            nodes=tuple(os.environ["ALPHAMED_NODES"].split()),
            gpus=int(os.environ["ALPHAMED_GPUS_PER_NODE"]),
            cpus=int(os.environ["ALPHAMED_CPUS_PER_NODE"]),
            rollout_nodes=int(rollout_nodes) if rollout_nodes else None,
            port=int(os.environ["ALPHAMED_PORT"]),
            attempt=os.environ["ALPHAMED_ATTEMPT"],
            card=os.environ.get("ALPHAMED_GPU_TYPE", ""),
        )

    @property
    def gpu_type(self) -> GpuType | None:
        """The type of `plan.gpu` that the card is; None: none that the plan knows."""
        kinds: tuple[GpuType, ...] = get_args(GpuType)
        return next((kind for kind in kinds if kind in self.card.lower()), None)


@dataclass(frozen=True)
class Places:
    """What runs where.

    Attributes:
        training: nodes of the ranks.
        ranks: on each of them.
        serving: nodes of the rollout servers, one each.
        server_gpus: of each server; 0: a CPU run.
        idle: GPUs of the allocation that nothing uses.
    """

    training: tuple[str, ...]
    ranks: int
    serving: tuple[str, ...]
    server_gpus: int
    idle: int

    @property
    def shared(self) -> bool:
        """Whether servers are on the trainer's nodes."""
        return self.serving[0] in self.training


def place(cfg: Config, allocation: Allocation) -> Places:
    """Divides the allocation, and fills what follows from it: `rollout.placement` and `servers`; with GPUs `engines`;
    without, where servers are on other hosts than rank 0, `transfer`.

    Colocated, every node has its ranks and, with GPUs, a server on the same GPUs; without GPUs the first
    `rollout.servers` nodes have one. Separate, each of the last nodes has a server and nothing else.

    Raises:
        ValueError: the layout needs another number of nodes or GPUs.
    """
    rollout = cfg.rollout
    if allocation.rollout_nodes is not None:
        rollout.placement = "separate" if allocation.rollout_nodes else "colocated"
        rollout.servers = allocation.rollout_nodes or rollout.servers
    aside = rollout.servers if rollout.placement == "separate" else 0
    if aside >= len(allocation.nodes):
        raise ValueError(
            f"rollout.servers: {aside} nodes for rollouts leave none of {len(allocation.nodes)} to train on; sbatch "
            f"--nodes={aside + 1} or more, or rollout.placement=colocated to share GPUs"
        )
    training = allocation.nodes[: len(allocation.nodes) - aside]
    ranks = ranks_per_node(cfg, allocation, len(training))
    if aside:
        serving, server_gpus = allocation.nodes[-aside:], allocation.gpus
    elif allocation.gpus:
        serving, server_gpus, rollout.servers = training, ranks, len(training)
    else:
        serving, server_gpus = allocation.nodes[: rollout.servers], 0
    if len(serving) < rollout.servers:
        raise ValueError(
            f"rollout.servers: found {rollout.servers}, but the job has {len(serving)} nodes, one for each"
        )
    if allocation.gpus:
        rollout.engines = engines(cfg, server_gpus)
    elif rollout.transfer == "auto" and serving != allocation.nodes[:1]:
        rollout.transfer = "gloo"
    used = len(training) * ranks + (aside * rollout.tensor * rollout.engines)
    return Places(training, ranks, serving, server_gpus, max(0, len(allocation.nodes) * allocation.gpus - used))


def ranks_per_node(cfg: Config, allocation: Allocation, nodes: int) -> int:
    """Ranks on each of so many training nodes.

    Raises:
        ValueError: the layout needs another number of nodes or GPUs.
    """
    parallel, gpus = cfg.parallel, allocation.gpus
    ranks = parallel.world_size
    layout = f"tensor {parallel.tensor} × pipeline {parallel.pipeline} × data {parallel.data} = {ranks} ranks"
    model, aside = parallel.tensor * parallel.pipeline * parallel.context, len(allocation.nodes) - nodes
    if gpus and nodes * gpus % model == 0 and nodes * gpus >= model:
        change = f"parallel.data={nodes * gpus // model}"
    else:
        change = f"sbatch --nodes={-(-ranks // gpus) + aside}" if gpus else "change parallel.data, or sbatch --nodes"
    if ranks % nodes:
        raise ValueError(
            f"parallel: {layout}, which {nodes} training nodes of {len(allocation.nodes)} cannot share evenly; {change}"
        )
    if gpus and ranks // nodes > gpus:
        raise ValueError(
            f"parallel: {layout} on {nodes} training nodes need more than the {gpus} GPUs of a node; {change}"
        )
    return ranks // nodes


def engines(cfg: Config, gpus: int) -> int:
    """Engines of a server that has so many GPUs: all that they hold.

    Raises:
        ValueError: not one engine fits, or another number was asked for.
    """
    rollout = cfg.rollout
    if rollout.tensor > gpus:
        raise ValueError(f"rollout.tensor: found {rollout.tensor}, but a server has {gpus} GPUs")
    held = gpus // rollout.tensor
    if rollout.engines not in (1, held):  # 1 is the default
        raise ValueError(
            f"rollout.engines: found {rollout.engines}, but the {gpus} GPUs of a server hold {held} of "
            f"rollout.tensor={rollout.tensor}; leave it out"
        )
    return held
