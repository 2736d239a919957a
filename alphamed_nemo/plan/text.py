"""A plan as text: what it needs, what it takes, what does not fit, and what it assumes."""

from __future__ import annotations

from collections.abc import Iterator

from alphamed_nemo.plan.adapters import trained_parameters
from alphamed_nemo.plan.asking import asking_text
from alphamed_nemo.plan.changes import Advice, Change
from alphamed_nemo.plan.costs import checkpoint_bytes, checkpoints_kept, disk_bytes, gpu_hours
from alphamed_nemo.plan.hardware import GIB
from alphamed_nemo.plan.passes import Passes, count_passes
from alphamed_nemo.plan.prediction import Plan

GB = 1e9


def plan_text(plan: Plan, advice: list[Advice]) -> str:
    """Everything, section by section."""
    sections = [
        ("Run", run_lines(plan)),
        ("Memory on the fullest GPU", memory_lines(plan)),
        ("Step", step_lines(plan)),
        ("Costs", cost_lines(plan)),
        ("Verdict", verdict_lines(plan, advice)),
        ("Assumptions", assumption_lines(plan)),
    ]
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections)


def run_lines(plan: Plan) -> Iterator[str]:
    cfg, cluster, load = plan.cfg, plan.cluster, plan.load
    yield f"{plan.model.name}, {plan.model.parameters:,} parameters, {cfg.model.dtype}"
    if cfg.lora.rank:
        yield f"LoRA of rank {cfg.lora.rank}: {trained_parameters(plan.model, cfg.lora):,} parameters are trained"
    where = "on the same GPUs, in turn" if cluster.shared else f"on {cluster.rollout_gpus} GPUs of their own"
    idle = f"; {cluster.idle} of the training nodes' idle" if cluster.idle else ""
    yield f"{cluster.gpus} × {cfg.plan.gpu}: {cluster.trainer_gpus} train; rollouts {where}{idle}"
    yield f"trainer {layout_text(plan)}, recompute {cfg.model.recompute}"
    engine = plan.engine
    yield (
        f"{counted(engine.engines, 'engine')} of {counted(engine.tensor, 'GPU')}, each with room for "
        f"{max(0, engine.cache_tokens):,} tokens and {engine.concurrent} responses at once"
    )
    yield (
        f"{load.samples:,} samples per step, {load.tokens / load.samples:,.0f} tokens each; longest response "
        f"{max(load.responses):,}"
    )
    yield f"sequences of up to {plan.longest:,} tokens have the memory (no context parallelism)"
    if passes := count_passes(cfg):
        yield passes_text(passes, cfg.grpo.steps, cfg.grpo.questions_per_step)
    yield (
        f"{cfg.grpo.updates_per_batch * cfg.grpo.epochs} updates of {plan.packs.count} micro-batches a rank, "
        f"{plan.packs.tokens:,} tokens each, {plan.packs.filled:.0%} filled"
    )


def passes_text(passes: Passes, steps: int, questions_per_step: int) -> str:
    count = f"{passes.count:.1f}" if passes.count >= 1 else f"only {passes.count:.2f}"
    return (
        f"{steps} steps of {questions_per_step} questions: {count} passes over {passes.questions:,} questions "
        f"({passes.source})"
    )


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def layout_text(plan: Plan) -> str:
    parallel = plan.cfg.parallel
    parts = [f"TP={parallel.tensor}", f"PP={parallel.pipeline}", f"DP={parallel.data}"]
    parts += [f"CP={parallel.context}"] if parallel.context > 1 else []
    parts += [f"VP={parallel.virtual_pipeline}"] if parallel.virtual_pipeline else []
    return " × ".join(parts) + (", sequence parallel" if parallel.sequence else "")


def memory_lines(plan: Plan) -> Iterator[str]:
    for memory in plan.memory:
        yield f"{memory.phase} ({memory.where}), GiB"
        yield from (f"  {name:<20}{size / GIB:8.1f}" for name, size in memory.parts.items() if size)
        yield f"  {'in all':<20}{memory.total / GIB:8.1f} of {memory.limit / GIB:.1f}"
    if plan.host:
        yield f"host memory of a node: {plan.host / GIB:.0f} GiB of {plan.cfg.plan.host_memory_gib:.0f}"


def step_lines(plan: Plan) -> Iterator[str]:
    yield from (f"{name:<20}{seconds:8.1f} s" for name, seconds in plan.phases.items())
    overlap = sum(plan.phases.values()) - plan.step
    if overlap > 0:
        yield f"{'side by side':<20}{-overlap:8.1f} s"
    yield f"{'in all':<20}{plan.step:8.1f} s, {plan.tokens_per_s_per_gpu:,.0f} tokens/s/GPU"
    train = plan.training
    yield (
        f"training: products {train.products:.1f}, pipeline bubble {train.bubble:.1f} ({plan.bubble:.1%} of the work), "
        f"tensor collectives {train.tensor:.1f}, gradients and weights {train.data:.1f}, "
        f"optimizer {train.optimizer:.2f} s"
    )
    refit = plan.refit
    yield (
        f"refit: {refit.bytes / GB:.1f} GB; gathering {refit.source:.2f}, beside it broadcast {refit.carrier:.2f} and "
        f"loading {refit.loading:.2f}, fixed {refit.fixed:.2f} s"
    )


def cost_lines(plan: Plan) -> Iterator[str]:
    cfg, nodes, per_node = plan.cfg, plan.cluster.nodes, plan.cfg.plan.gpus_per_node
    seconds = cfg.grpo.steps * plan.step
    yield (
        f"{cfg.grpo.steps} steps: {seconds / 3600:.1f} h on {counted(nodes, 'node')}, "
        f"{gpu_hours(seconds, nodes, per_node):,.0f} GPU-hours, predicted, starts and saves left out"
    )
    yield (
        f"disk: at most {disk_bytes(cfg, plan.model) / GB:,.0f} GB: {checkpoints_kept(cfg)} checkpoints of "
        f"{checkpoint_bytes(cfg, plan.model) / GB:,.1f} GB and the converted model"
    )
    for stage in ("label_difficulty", "evaluate"):
        yield f"{stage}: {asking_text(cfg, stage)}"


def verdict_lines(plan: Plan, advice: list[Advice]) -> Iterator[str]:
    if plan.fits:
        yield "fits"
        return
    yield from (f"does not fit: {problem}" for problem in plan.problems)
    yield from (f"would fit with {change_text(each.change)} ({_cost(plan, each)})" for each in advice)
    if not advice:
        yield "no combination of three changes makes it fit: take a smaller model or GPUs with more memory"


def change_text(change: Change) -> str:
    """As overrides on the command line."""
    return " ".join(f"{name}={'null' if value is None else str(value).lower()}" for name, value in change.items())


def _cost(plan: Plan, advice: Advice) -> str:
    more = advice.plan.cluster.gpus - plan.cluster.gpus
    return f"{advice.plan.step:.0f} s a step" + (f", {more} GPUs more" if more > 0 else "")


def assumption_lines(plan: Plan) -> Iterator[str]:
    yield "response lengths: exponential with the mean below, cut at the longest"
    yield "reward, log-probs, training and refit follow the rollouts; collectives of tensor parallelism are not hidden"
    yield from (f"{name}={value:g}: {because}" for name, value, because in plan.cfg.plan.assumptions())
