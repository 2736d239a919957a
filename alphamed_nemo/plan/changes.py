"""Settings that could be different: which change makes a plan fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from alphamed_nemo.config import Config
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
    """A copy with some settings changed; what is not changed is shared with `cfg`."""
    changed = copy.copy(cfg)
    for group in {name.split(".")[0] for name in change}:
        setattr(changed, group, copy.copy(getattr(cfg, group)))
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
                found += fitting(plan.cfg, plan.model, merged)
        if found:
            return sorted(found, key=lambda advice: (advice.plan.cluster.gpus, advice.plan.step))[:most]
    return []


def fitting(cfg: Config, model: Model, change: Change) -> list[Advice]:
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
