"""The best layouts as a table, beside the present settings, and as overrides of these."""

from __future__ import annotations

from collections.abc import Sequence

from alphamed_nemo.config import Config
from alphamed_nemo.plan.bottleneck import limited_by
from alphamed_nemo.plan.changes import Advice, Change
from alphamed_nemo.plan.hardware import GIB, cluster_of
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.plan.search import present, search
from alphamed_nemo.plan.sizes import load_model
from alphamed_nemo.plan.text import change_text, counted

HEAD = (
    "", "placement", "TP×PP×DP", "chunks", "engines", "recompute", "micro-batch", "precision", "GiB", "step",
    "tokens/s/GPU", "limited by",
)  # fmt: skip
BEST = 5  # that are shown
NOTE = "same: the best that trains on rollouts as old, and in the same precision, as now"
NUMBERS = (8, 9, 10)  # columns


def search_text(cfg: Config) -> str:
    """The present settings and the best layouts on `plan.gpus` GPUs, or as many as the settings use.

    Raises:
        ValueError: no layout fits.
    """
    model = load_model(cfg.model.path)
    gpus = cfg.plan.gpus or cluster_of(cfg).gpus
    now = make_plan(present(cfg, gpus), model)
    found = search(cfg, model, gpus)
    if not found:
        raise ValueError(f"plan.gpus: no layout of {model.name} fits on {gpus} × {cfg.plan.gpu}; take more of them")
    shown = {str(number): advice for number, advice in enumerate(found[:BEST], start=1)}
    same = next((advice for advice in found if _same_method(now, advice.plan)), None)
    if same is not None and same not in found[:BEST]:
        shown["same"] = same
    rows = [HEAD, _row("now", now), *(_row(name, advice.plan) for name, advice in shown.items())]
    title = f"{model.name} on {gpus} × {cfg.plan.gpu}, predicted; GiB while training and while rollouts run, of " + (
        f"{now.memory[0].limit / GIB:.0f}"
    )
    overrides = [f"{name}: {change_text(_changes(cfg, advice))}" for name, advice in shown.items()]
    notes = [NOTE] if "same" in shown else []
    return "\n".join([title, "", *_aligned(rows), *notes, "", "Settings of each:", *overrides])


def _same_method(now: Plan, other: Plan) -> bool:
    """Whether it trains on rollouts as old and in the same precision."""
    methods = ((plan.cfg.grpo.staleness, plan.cfg.model.fp8, plan.cfg.rollout.quantization) for plan in (now, other))
    return next(methods) == next(methods)


def _row(name: str, plan: Plan) -> tuple[str, ...]:
    cfg, parallel, engine = plan.cfg, plan.cfg.parallel, plan.engine
    where = "colocated" if plan.cluster.shared else f"{counted(cfg.rollout.servers, 'server')} apart"
    recompute = cfg.model.recompute + (", optimizer on the host" if cfg.optim.offload else "")
    precision = "float32" if cfg.model.dtype == "float32" else "FP8" if cfg.model.fp8 else "bfloat16"
    return (
        name,
        where + (", one step off" if cfg.grpo.staleness else ""),
        f"{parallel.tensor}×{parallel.pipeline}×{parallel.data}",
        str(parallel.virtual_pipeline or 1),
        f"{engine.engines} of {engine.tensor}",
        recompute,
        f"{cfg.grpo.tokens_per_microbatch:,}",
        precision,
        " / ".join(f"{memory.total / GIB:.0f}" for memory in plan.memory),
        f"{plan.step:.1f} s",
        f"{plan.tokens_per_s_per_gpu:,.0f}",
        limited_by(plan) if plan.fits else f"does not fit: {plan.problems[0]}",
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    return [
        "  ".join(
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, [*widths, 0], strict=True))
        ).rstrip()
        for row in rows
    ]


def _changes(cfg: Config, advice: Advice) -> Change:
    """What differs from the settings of now. `rollout.servers` follows from the nodes where they are shared, and
    `plan.gpus` is no setting of a run."""
    after = advice.plan.cfg
    differing = {}
    for name, value in advice.change.items():
        group, key = name.split(".")
        if getattr(getattr(cfg, group), key) != getattr(getattr(after, group), key) and group != "plan":
            differing[name] = value
    return differing
