"""Settings that could be different: which change makes a plan fit, and which layout is the fastest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.plan.activations import RECOMPUTE
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.plan.sizes import Model

Change = dict[str, Any]  # dotted setting → value

MOST_TENSOR = 8  # ranks of tensor parallelism: within one node, over NVLink
UTILIZATION = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Advice:
    """A change that makes the plan fit."""

    change: Change
    plan: Plan


def apply(cfg: Config, change: Change) -> Config:
    """A copy with some settings changed."""
    changed = copy.deepcopy(cfg)
    for name, value in change.items():
        group, key = name.split(".")
        setattr(getattr(changed, group), key, value)
    return changed


def advise(plan: Plan, most: int = 3) -> list[Advice]:
    """The smallest changes after which everything fits, those without more GPUs and the fastest first.

    Two changes together are tried only where no single one is enough, and three only where no two are.
    """
    singles = list(_changes(plan))
    for size in (1, 2, 3):
        found = []
        for group in combinations(singles, size):
            merged = {name: value for change in group for name, value in change.items()}
            if len(merged) == sum(len(change) for change in group):  # no setting twice
                found += _fitting(plan.cfg, plan.model, merged)
        if found:
            return sorted(found, key=lambda advice: (advice.plan.cluster.gpus, advice.plan.step))[:most]
    return []


def fastest(cfg: Config, model: Model, gpus: int) -> Plan | None:
    """The layout with the shortest step of those that fit on `gpus` GPUs; None where none does.

    Tries tensor and pipeline parallelism, virtual stages, recomputation, the engines' size and their share of memory,
    and the optimizer on the host where nothing else fits. Where `rollout.placement` is separate, the nodes of
    `rollout.servers` are for rollouts alone.
    """
    aside = cfg.rollout.servers * cfg.plan.gpus_per_node if cfg.rollout.placement == "separate" else 0
    for offload in (False, True):
        found: list[Plan] = []
        for layout, recompute in product(_layouts(cfg, model, gpus - aside), RECOMPUTE):
            change = {**layout, "model.recompute": recompute, "optim.offload": offload, "rollout.tensor": 1}
            if make_plan(apply(cfg, change), model).memory[0].fits:  # what the trainer needs depends on no engine
                found += _with_engines(cfg, model, change, min(aside or gpus, cfg.plan.gpus_per_node))
        if found:
            # Where rollouts set the pace many layouts give one step: then the one that works least.
            return min(found, key=lambda plan: (round(plan.step, 1), sum(plan.phases.values())))
    return None


def _with_engines(cfg: Config, model: Model, change: Change, gpus: int) -> Iterator[Plan]:
    """For each size of the engines of a server on `gpus` GPUs the plan with the largest share of memory that fits."""
    for tensor in (1, 2, 4, 8):
        if gpus % tensor or model.heads % tensor:
            continue
        for share in UTILIZATION:
            engines: Change = {"rollout.tensor": tensor, "rollout.engines": gpus // tensor}
            engines["rollout.gpu_memory_utilization"] = share
            if fitting := _fitting(cfg, model, change | engines):
                yield fitting[0].plan
                break


def _fitting(cfg: Config, model: Model, change: Change) -> list[Advice]:
    """The change, if it can be made and then everything fits."""
    try:
        plan = make_plan(apply(cfg, change), model)
    except ValueError:  # such a layout does not exist for this model
        return []
    return [Advice(change, plan)] if plan.fits else []


def _changes(plan: Plan) -> Iterator[Change]:
    """Single changes, each of which saves memory somewhere."""
    cfg, parallel = plan.cfg, plan.cfg.parallel
    if cfg.model.recompute == "none":
        yield {"model.recompute": "selective"}
    if cfg.model.recompute != "full":
        yield {"model.recompute": "full"}
    if cfg.grpo.tokens_per_microbatch > cfg.model.max_length:
        yield {"grpo.tokens_per_microbatch": cfg.model.max_length}
    if parallel.data % 2 == 0:
        half = parallel.data // 2
        if parallel.tensor < MOST_TENSOR:
            yield {"parallel.tensor": 2 * parallel.tensor, "parallel.sequence": True, "parallel.data": half}
        yield {"parallel.pipeline": 2 * parallel.pipeline, "parallel.data": half}
    if not cfg.optim.offload:
        yield {"optim.offload": True}
    for share in UTILIZATION:
        if share != cfg.rollout.gpu_memory_utilization:
            yield {"rollout.gpu_memory_utilization": share}
    if 2 * cfg.rollout.tensor <= min(plan.cluster.server_gpus, MOST_TENSOR):
        tensor = 2 * cfg.rollout.tensor
        yield {"rollout.tensor": tensor, "rollout.engines": plan.cluster.server_gpus // tensor}
    yield {"parallel.data": 2 * parallel.data} | ({"plan.gpus": 0} if cfg.plan.gpus else {})


def _layouts(cfg: Config, model: Model, gpus: int) -> Iterator[Change]:
    """Every way to divide the model over the GPUs that the policy and the batch allow."""
    samples = cfg.grpo.questions_per_step * cfg.grpo.samples_per_question // cfg.grpo.updates_per_batch
    for tensor, pipeline, virtual in product((1, 2, 4, 8), (1, 2, 4, 8, 16), (None, 2)):
        ranks = tensor * pipeline * cfg.parallel.context
        if gpus < ranks or gpus % ranks or gpus // ranks > samples or model.kv_heads % tensor:
            continue
        if model.layers % (pipeline * (virtual or 1)) or (virtual and pipeline == 1):
            continue
        yield {
            "parallel.tensor": tensor,
            "parallel.pipeline": pipeline,
            "parallel.data": gpus // ranks,
            "parallel.virtual_pipeline": virtual,
            "parallel.sequence": tensor > 1,
            "plan.gpus": 0,
        }
