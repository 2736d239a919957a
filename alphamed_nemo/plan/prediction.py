"""The plan of a run: everything that recipes/plan.py prints, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NoReturn

from alphamed_nemo.config import Config
from alphamed_nemo.config.layout import check_layout, check_microbatch
from alphamed_nemo.plan.generation import Engine, generation_seconds, make_engine
from alphamed_nemo.plan.hardware import GIB, Cluster, cluster_of
from alphamed_nemo.plan.lengths import Workload, make_workload
from alphamed_nemo.plan.memory import Memory, copies_reference, fullest_stage, host_bytes, resident, rollout_memory
from alphamed_nemo.plan.refit_time import Refit, plan_refit
from alphamed_nemo.plan.sizes import Model, load_model
from alphamed_nemo.plan.states import States, rank_states
from alphamed_nemo.plan.training import Packs, Pass, bubble_share, logprob_pass, make_packs, train_pass


@dataclass(frozen=True)
class Plan:
    """What one step needs and takes.

    Attributes:
        phases: name → seconds; names are those of the run's timing metrics.
        step: seconds. With `grpo.staleness` rollouts run beside the training, so it is less than the phases' sum.
        memory: the fullest GPU while training and while rollouts run.
        host: bytes in the host memory of one node.
        problems: what does not fit or work, one line each; empty: the plan is good.
    """

    cfg: Config
    cluster: Cluster
    model: Model
    load: Workload
    packs: Packs
    engine: Engine
    states: States
    training: Pass
    bubble: float
    refit: Refit
    phases: dict[str, float]
    step: float
    memory: tuple[Memory, Memory]
    host: float
    problems: tuple[str, ...]

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Tokens of the step's samples, prompts included, a second and GPU of the whole cluster."""
        return self.load.tokens / self.step / self.cluster.gpus

    @property
    def fits(self) -> bool:
        return not self.problems

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence that a micro-batch and an engine have the memory for, in steps of 128."""
        fits, too_long = 0, max(0, self.engine.cache_tokens) // 128 + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            packs = replace(self.packs, tokens=128 * middle)
            if fullest_stage(self.cfg, self.cluster, self.model, self.load, packs).fits:
                fits = middle
            else:
                too_long = middle
        return 128 * fits


def make_plan(cfg: Config, model: Model | None = None) -> Plan:
    """Plans the run that `cfg` describes.

    Args:
        cfg: `model.path` names a folder with a config.json, or one of plan/models.
        model: the model, where the caller has it already.

    Raises:
        ValueError: settings that contradict each other. What merely does not fit is in `problems`.
    """
    model = model or load_model(cfg.model.path)
    if cfg.parallel.context > 1:
        refuse_context(cfg, model)
    check_division(cfg, model)
    cluster = cluster_of(cfg)
    load = _workload(cfg)
    packs = make_packs(cfg, load)
    engine = make_engine(cfg, cluster, model, load)
    stages = [
        rank_states(model, cfg.parallel, cfg.model.dtype, stage, lora=cfg.lora)
        for stage in range(cfg.parallel.pipeline)
    ]
    states = max(stages, key=lambda s: s.gradients)
    training = train_pass(cfg, cluster, model, load, packs, states)
    refit = plan_refit(cfg, cluster, model)
    phases = _phases(cfg, cluster, model, load, packs, engine, states, training, refit)
    memory = (fullest_stage(cfg, cluster, model, load, packs), rollout_memory(cfg, cluster, model, engine))
    host = host_bytes(cfg, cluster, states)
    return Plan(
        cfg, cluster, model, load, packs, engine, states, training, bubble_share(cfg, packs), refit, phases,
        step_seconds(cfg, cluster, phases), memory, host, tuple(_problems(cfg, cluster, engine, memory, host)),
    )  # fmt: skip


def check_division(cfg: Config, model: Model) -> None:
    """Whether the model can be divided as `parallel` and `rollout.tensor` say.

    Raises:
        ValueError: names the setting.
    """
    check_layout(cfg.parallel, model.heads, model.kv_heads, model.ffn, model.layers)
    check_microbatch(cfg.parallel, cfg.grpo.tokens_per_microbatch)
    if model.heads % cfg.rollout.tensor:
        raise ValueError(f"rollout.tensor: {cfg.rollout.tensor} does not divide the model's {model.heads} heads")


def refuse_context(cfg: Config, model: Model) -> NoReturn:
    """Says how long sequences may be without context parallelism.

    Raises:
        ValueError: always.
    """
    parallel = replace(cfg.parallel, context=1, data=cfg.parallel.data * cfg.parallel.context)
    longest = make_plan(replace(cfg, parallel=parallel), model).longest
    raise ValueError(
        f"parallel.context: found {cfg.parallel.context}, expected 1: packed batches are not split over "
        f"context-parallel ranks; with parallel.context=1 and the other settings as they are, sequences of up to "
        f"{longest:,} tokens fit on {cfg.plan.gpu}, and more with a higher parallel.tensor or model.recompute=full"
    )


def step_seconds(cfg: Config, cluster: Cluster, phases: dict[str, float]) -> float:
    """The step: phases one after another, or rollouts beside training where GPUs and staleness allow."""
    if cluster.shared or cfg.grpo.staleness == 0:
        return sum(phases.values())
    aside = phases["generation"] + phases["reward"]
    trainer = phases["old_logprobs"] + phases["training"]
    return max(aside, trainer) + sum(phases.values()) - aside - trainer


def _workload(cfg: Config) -> Workload:
    grpo, plan = cfg.grpo, cfg.plan
    longest = min(cfg.rollout.max_new_tokens, cfg.model.max_length - math.ceil(plan.prompt_tokens))
    samples = grpo.questions_per_step * grpo.samples_per_question
    return _batch(samples, grpo.samples_per_question, plan.prompt_tokens, plan.response_tokens, longest)


_batch = lru_cache(maxsize=16)(make_workload)  # a search plans the same batch many times


def _phases(
    cfg: Config, cluster: Cluster, model: Model, load: Workload, packs: Packs, engine: Engine, states: States,
    training: Pass, refit: Refit,
) -> dict[str, float]:  # fmt: skip
    passes = int(cfg.grpo.needs_old_logprobs) + int(cfg.grpo.kl_coef > 0)
    phases = {
        "generation": generation_seconds(cfg, cluster, model, load, engine),
        "reward": load.samples / cfg.plan.reward_items_per_s,
        "old_logprobs": passes * logprob_pass(cfg, cluster, model, load, packs).seconds,
        "training": training.seconds,
        "refit": refit.seconds,
        "other": cfg.plan.other_s,
    }
    if cluster.shared:
        away = states.weights + states.optimizer + (states.weights if copies_reference(cfg) else 0)
        away -= min(away, resident(cfg, states))
        if cfg.optim.offload:
            away = max(0, away - states.optimizer)
        phases["sleep and wake"] = 2 * away / (cfg.plan.host_link_gb_s * 1e9)
    return phases


def _problems(cfg: Config, cluster: Cluster, engine: Engine, memory: tuple[Memory, Memory], host: float) -> list[str]:
    found = [
        f"{one.phase}: {one.where} needs {one.total / GIB:.1f} GiB of {one.limit / GIB:.1f}"
        for one in memory
        if not one.fits
    ]
    if engine.cache_tokens < cfg.model.max_length:
        found.append(
            f"rollouts: vLLM's share of a GPU leaves room for {max(0, engine.cache_tokens)} tokens of keys and values; "
            f"one response may need model.max_length={cfg.model.max_length}"
        )
    if host > cfg.plan.host_memory_gib * GIB:
        found.append(f"host: {host / GIB:.0f} GiB of {cfg.plan.host_memory_gib:.0f} on a node are needed")
    if cfg.grpo.staleness > 0 and cluster.shared:
        found.append(
            "grpo.staleness: rollouts cannot run beside the training on the same GPUs; rollout.placement=separate"
        )
    return found
