"""The best layouts of a model on a cluster: every one that can be launched is planned, and the fastest are kept.

A layout is a placement, tensor, pipeline and data parallelism, virtual stages, engines, recomputation, micro-batch, and
precision. What each takes is the plan's arithmetic and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from alphamed_nemo.config import Config
from alphamed_nemo.config.limits import check_training_values
from alphamed_nemo.plan.activations import RECOMPUTE
from alphamed_nemo.plan.changes import UTILIZATION, Advice, Change, apply, fitting
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.plan.sizes import Model

MOST_TOKENS = 32_768  # of a micro-batch that is tried
FP8: Change = {  # precision=fp8_block
    "model.fp8": "e4m3",
    "model.fp8_recipe": "blockwise",
    "rollout.quantization": "fp8",
    "grpo.max_token_mult_prob_error": 1.1,
}


def search(cfg: Config, model: Model, gpus: int, fp8: bool = True) -> list[Advice]:
    """The layouts of `gpus` GPUs that fit and a training accepts, of either placement and precision, best first.

    Of those that differ in recomputation, micro-batch or vLLM's share of memory alone the fastest is taken.

    Args:
        fp8: whether FP8 is tried beside the precision of `cfg`.
    """
    found: list[Advice] = []
    for where, precision in product(_placements(cfg, gpus), _precisions(cfg) if fp8 else [{}]):
        changed = apply(cfg, where | precision)
        each = layouts(changed, model, gpus, micro_batches(cfg))
        found += [Advice(where | precision | advice.change, advice.plan) for advice in each]
    found.sort(key=lambda advice: (-round(advice.plan.tokens_per_s_per_gpu), _work(advice.plan)))
    return [advice for advice in found if _accepted(advice.plan)]


def fastest(cfg: Config, model: Model, gpus: int) -> Plan | None:
    """The layout with the shortest step of those that fit on `gpus` GPUs, with placement, precision and micro-batch as
    `cfg` has them; None where none fits."""
    found = layouts(cfg, model, gpus, [cfg.grpo.tokens_per_microbatch])
    return min((advice.plan for advice in found), key=_rank, default=None)


def layouts(cfg: Config, model: Model, gpus: int, tokens: Sequence[int]) -> list[Advice]:
    """For each way to divide the model, and each size of engine, the fastest plan that fits.

    The optimizer goes to the host where nothing else fits. With `rollout.placement=separate`, the nodes of
    `rollout.servers` are for rollouts alone.

    Args:
        tokens: of a micro-batch, to choose from.
    """
    aside = _aside(cfg)
    for offload in (False, True):
        found: list[Advice] = []
        for divided in _divisions(cfg, model, gpus - aside):
            change = divided | {"optim.offload": offload, "rollout.tensor": 1}
            trainer = _fastest_trainer(cfg, model, change, tokens)
            if trainer is not None:
                found += _with_engines(cfg, model, trainer, min(aside or gpus, cfg.plan.gpus_per_node))
        if found:
            return found
    return []


def micro_batches(cfg: Config) -> list[int]:
    """Tokens of a micro-batch that are tried: those of `cfg`, and the longest sequence, doubled again and again."""
    longest = -(-cfg.model.max_length // 128) * 128
    doubled = [longest << times for times in range(MOST_TOKENS.bit_length()) if longest << times <= MOST_TOKENS]
    return sorted({*doubled, max(longest, cfg.grpo.tokens_per_microbatch)})


def present(cfg: Config, gpus: int) -> Config:
    """The settings as they are, with as many copies of the model as `gpus` hold.

    Raises:
        ValueError: they cannot use all of them.
    """
    aside = _aside(cfg)
    ranks = cfg.parallel.tensor * cfg.parallel.pipeline * cfg.parallel.context
    if gpus <= aside or (gpus - aside) % ranks:
        raise ValueError(
            f"plan.gpus: found {gpus}, of which {max(0, gpus - aside)} train; expected a multiple of tensor × pipeline "
            f"= {ranks} of these settings"
        )
    return apply(cfg, {"parallel.data": (gpus - aside) // ranks, "plan.gpus": 0})


def _aside(cfg: Config) -> int:
    """GPUs of nodes that sample and do not train."""
    return cfg.rollout.servers * cfg.plan.gpus_per_node if cfg.rollout.placement == "separate" else 0


def _rank(plan: Plan) -> tuple[float, float]:
    """Where rollouts set the pace many layouts give one step: then the one that works least is better."""
    return round(plan.step, 1), _work(plan)


def _work(plan: Plan) -> float:
    return sum(plan.phases.values())


def _accepted(plan: Plan) -> bool:
    """Whether a training accepts the settings. That the layout exists has been seen to by the plan."""
    try:
        check_training_values(plan.cfg)
    except ValueError:
        return False
    return True


def _placements(cfg: Config, gpus: int) -> Iterator[Change]:
    """Trainer and rollouts in turn on all GPUs, or rollouts on nodes of their own, one step off-policy."""
    everywhere: Change = {"plan.gpus": 0}
    if cfg.grpo.staleness == 0:
        yield everywhere | {"rollout.placement": "colocated", "rollout.servers": 1}
    nodes = gpus // cfg.plan.gpus_per_node
    servers = (
        range(1, nodes) if nodes <= 8 else [1 << power for power in range(nodes.bit_length()) if 1 << power < nodes]
    )
    for count in servers:
        yield everywhere | {"rollout.placement": "separate", "rollout.servers": count, "grpo.staleness": 1}


def _precisions(cfg: Config) -> list[Change]:
    """That of the settings, and FP8 where these are in bfloat16."""
    plain = cfg.model.dtype == "bfloat16" and not (cfg.model.fp8 or cfg.rollout.quantization)
    return [{}, FP8] if plain and cfg.model.spec != "local" else [{}]


def _fastest_trainer(cfg: Config, model: Model, change: Change, tokens: Sequence[int]) -> Change | None:
    """With the recomputation and the micro-batch that take least time of those that leave enough memory.

    What the trainer needs depends on no engine, and what it leaves to the engines on neither of the two.
    """
    found = []
    for recompute, limit in product(RECOMPUTE, tokens):
        choice = change | {"model.recompute": recompute, "grpo.tokens_per_microbatch": limit}
        plan = make_plan(apply(cfg, choice), model)
        if plan.memory[0].fits:
            found.append((_rank(plan), choice))
    return min(found, key=lambda each: each[0])[1] if found else None


def _with_engines(cfg: Config, model: Model, change: Change, gpus: int) -> Iterator[Advice]:
    """For each size of the engines of a server on `gpus` GPUs the plan with the largest share of memory that fits."""
    for tensor in (1, 2, 4, 8):
        if gpus % tensor or model.heads % tensor:
            continue
        for share in UTILIZATION:
            engines: Change = {"rollout.tensor": tensor, "rollout.engines": gpus // tensor}
            engines["rollout.gpu_memory_utilization"] = share
            if found := fitting(cfg, model, change | engines):
                yield found[0]
                break


def _divisions(cfg: Config, model: Model, gpus: int) -> Iterator[Change]:
    """Every way to divide the model over the GPUs that the policy, the nodes and the batch allow."""
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
