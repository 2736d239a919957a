"""Memory by part on the fullest GPU, while the trainer works and while rollouts run."""

from __future__ import annotations

from dataclasses import dataclass, field

from alphamed_nemo.config import Config
from alphamed_nemo.plan.activations import activation_bytes, logit_bytes
from alphamed_nemo.plan.generation import Engine
from alphamed_nemo.plan.hardware import GIB, Cluster
from alphamed_nemo.plan.lengths import Workload
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import States, fp8_copies, rank_states
from alphamed_nemo.plan.training import Packs


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU in one phase.

    Attributes:
        phase: "training" or "rollouts".
        where: which rank or engine.
        parts: name → bytes.
        limit: what the GPU has.
    """

    phase: str
    where: str
    parts: dict[str, float] = field(default_factory=dict)
    limit: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.limit


def fullest_stage(cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs) -> Memory:
    """The trainer's rank that needs most while it trains."""
    stages = range(cfg.parallel.pipeline)
    return max((training_memory(cfg, cluster, model, load, packs, stage) for stage in stages), key=lambda m: m.total)


def training_memory(cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs, stage: int) -> Memory:
    """A rank of one stage, data-parallel rank 0, which has as much as any."""
    plan, parallel, dtype = cfg.plan, cfg.parallel, cfg.model.dtype
    states = rank_states(model, parallel, dtype, stage, lora=cfg.lora)
    parts = {
        "weights": float(states.weights),
        "gradients": float(states.gradients),
        "optimizer": 0.0 if cfg.optim.offload else float(states.optimizer),
        "activations": activation_bytes(model, parallel, dtype, cfg.model.recompute, packs.tokens, stage, packs.count),
    }
    if cfg.model.fp8:
        parts["FP8 copies of weights"] = float(fp8_copies(model, parallel, stage))
    if stage == parallel.pipeline - 1:
        rows = packs.tokens * load.response_share * packs.filled
        parts["logits"] = logit_bytes(model, parallel, dtype, cfg.model.head_dtype, rows)
    if copies_reference(cfg):
        parts["reference model"] = float(states.weights)
    if cluster.shared:
        parts["vLLM, asleep"] = plan.asleep_gib * GIB
    parts["reserve"] = plan.reserve_gib * GIB
    where = f"pipeline stage {stage} of {parallel.pipeline}"
    return Memory("training", where, parts, cluster.gpu.memory_gib * GIB)


def rollout_memory(cfg: Config, cluster: Cluster, model: Model, engine: Engine) -> Memory:
    """A GPU of an engine, with what the trainer leaves there where they share it."""
    plan = cfg.plan
    parts = {
        "vLLM weights": engine.weights,
        "KV cache": max(0.0, engine.cache),
        "vLLM workspace": plan.rollout_workspace_gib * GIB,
        "reserve": plan.reserve_gib * GIB,
    }
    if cluster.shared:
        stages = [
            rank_states(model, cfg.parallel, cfg.model.dtype, stage, lora=cfg.lora)
            for stage in range(cfg.parallel.pipeline)
        ]
        parts["trainer, waiting"] = max(float(resident(cfg, states)) for states in stages)
        if cfg.model.fp8:  # nothing takes them away
            copies = [fp8_copies(model, cfg.parallel, stage) for stage in range(cfg.parallel.pipeline)]
            parts["FP8 copies of weights"] = float(max(copies))
    return Memory("rollouts", "each GPU of an engine", parts, cluster.gpu.memory_gib * GIB)


def copies_reference(cfg: Config) -> bool:
    """Whether a KL term keeps the base model's weights a second time; with LoRA the policy still has them."""
    return cfg.grpo.kl_coef > 0 and not cfg.lora.rank


def resident(cfg: Config, states: States) -> int:
    """Bytes that the trainer keeps on a shared GPU while rollouts run (policy/offload.py)."""
    choice = cfg.plan.offload_while_generating if cfg.rollout.offloads(cuda=True) else "none"
    weights = states.weights * (2 if copies_reference(cfg) else 1)
    if choice == "all":
        return 0
    if choice == "optimizer":
        return weights
    return weights + states.gradients + (0 if cfg.optim.offload else states.optimizer)


def host_bytes(cfg: Config, cluster: Cluster, states: States) -> float:
    """That the trainer's ranks of one node put into host memory; gradients are freed, not moved."""
    plan, ranks = cfg.plan, min(cluster.trainer_gpus, cluster.gpus_per_node)
    moved = cluster.shared and cfg.rollout.offloads(cuda=True) and plan.offload_while_generating != "none"
    each = states.optimizer if cfg.optim.offload or moved else 0
    if cluster.shared and plan.offload_while_generating == "all":
        each += states.weights * (2 if copies_reference(cfg) else 1)
    return float(ranks * each)
