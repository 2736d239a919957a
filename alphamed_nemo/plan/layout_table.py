"""The table of docs/plan.md: the fastest layout of every model on 8 to 128 GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from alphamed_nemo.config import Config
from alphamed_nemo.plan.changes import apply
from alphamed_nemo.plan.hardware import GIB
from alphamed_nemo.plan.prediction import Plan
from alphamed_nemo.plan.search import fastest
from alphamed_nemo.plan.sizes import SHIPPED, Model, load_model

GPUS = (8, 16, 32, 64, 128)
HEAD = (
    "model", "GPUs", "trainer", "recompute", "engines", "GiB", "bubble", "generation", "log-probs", "training", "refit",
    "step", "tokens/s/GPU",
)  # fmt: skip


def table(cfg: Config) -> str:
    """Markdown: rollouts on the trainer's GPUs, then on nodes of their own and one step off-policy.

    The batch and all assumptions are those of `cfg`.
    """
    same = apply(cfg, {"rollout.placement": "colocated", "plan.gpus": 0, "grpo.staleness": 0})
    aside = apply(cfg, {"rollout.placement": "separate", "plan.gpus": 0, "grpo.staleness": 1})
    per_node = cfg.plan.gpus_per_node
    parts = ["rollout.placement=colocated, one phase after another:", "", *_rows(same, GPUS, lambda gpus: [1])]
    parts += ["", "rollout.placement=separate and grpo.staleness=1, rollouts beside the training:", ""]
    parts += _rows(aside, GPUS[1:], lambda gpus: [n for n in (1, 2, 4, 8) if n * per_node < gpus])
    return "\n".join(parts)


def _rows(cfg: Config, sizes: Sequence[int], nodes: Callable[[int], list[int]]) -> Iterator[str]:
    """The fastest plan of each model and number of GPUs, over the numbers of servers that `nodes` gives."""
    for cells in (HEAD, ("---",) * len(HEAD)):
        yield _line(cells)
    for model, gpus in product(models(), sizes):
        plans = [fastest(apply(cfg, {"rollout.servers": n}), model, gpus) for n in nodes(gpus)]
        fitting = [plan for plan in plans if plan is not None]
        yield _line(_row(model, gpus, min(fitting, key=lambda plan: plan.step, default=None)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def models() -> Iterator[Model]:
    """Those of plan/models, smallest first."""
    yield from sorted((load_model(path.stem) for path in SHIPPED.glob("*.json")), key=lambda model: model.parameters)


def _row(model: Model, gpus: int, plan: Plan | None) -> tuple[str, ...]:
    if plan is None:
        return (model.name, str(gpus), "does not fit", *[""] * (len(HEAD) - 3))
    cfg, parallel, phases = plan.cfg, plan.cfg.parallel, plan.phases
    layout = f"{parallel.tensor} × {parallel.pipeline} × {parallel.data}"
    layout += f", {parallel.virtual_pipeline} chunks" if parallel.virtual_pipeline else ""
    layout += ", optimizer on the host" if cfg.optim.offload else ""
    return (
        model.name, str(gpus), layout, cfg.model.recompute, f"{plan.engine.engines} × {plan.engine.tensor}",
        " / ".join(f"{memory.total / GIB:.0f}" for memory in plan.memory), f"{plan.bubble:.0%}",
        *(f"{phases[name]:.0f}" for name in ("generation", "old_logprobs", "training", "refit")),
        f"{plan.step:.0f} s", f"{plan.tokens_per_s_per_gpu:,.0f}",
    )  # fmt: skip
