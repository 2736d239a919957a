"""What each setting may hold on its own, whatever the model and the machine: choices, ranges, and pairs that clash."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

from alphamed_nemo.answers.protocols import PROTOCOLS
from alphamed_nemo.config import Config
from alphamed_nemo.data.prompts import TEMPLATES
from alphamed_nemo.data.subsets import FILLS, SUBSETS
from alphamed_nemo.evaluation.grading import EVALUATION_PROTOCOLS
from alphamed_nemo.grpo.advantages import ADVANTAGES
from alphamed_nemo.grpo.loss import check_method
from alphamed_nemo.plan.activations import RECOMPUTE
from alphamed_nemo.rollout.vllm_command import TRANSFERS

CHOICES: dict[str, tuple[str, ...]] = {
    "run.loggers": ("tensorboard", "wandb", "mlflow"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.spec": ("auto", "local", "transformer_engine"),
    "model.recompute": RECOMPUTE,
    "model.fp8": ("", "hybrid", "e4m3"),
    "model.fp8_recipe": ("delayed", "current", "blockwise"),
    "model.fusions": ("rope", "bias_activation", "bias_dropout", "masked_softmax", "gradient_accumulation"),
    "optim.schedule": ("constant", "cosine", "linear"),
    "data.source": ("clinic", "medical_bank", "sources"),
    "data.prompt": tuple(TEMPLATES),
    "label.subset": SUBSETS,
    "label.fill": FILLS,
    "rollout.transfer": TRANSFERS,
    "rollout.quantization": ("", "fp8"),
    "rollout.dtype": ("auto", "float32", "bfloat16"),
    "reward.protocol": tuple(PROTOCOLS),
    "evaluate.protocol": EVALUATION_PROTOCOLS,
    "grpo.advantage": ADVANTAGES,
    "grpo.curriculum": ("none", "easy_first"),
    "export.dtype": ("", "float32", "bfloat16"),
}

# Inclusive.
RANGES: dict[str, tuple[float, float]] = {
    "run.seed": (0, 2**32 - 1),
    "run.component_timeout_s": (1, math.inf),
    "run.server_restarts": (0, math.inf),
    "run.hang_timeout_s": (1, math.inf),
    "model.max_length": (0, math.inf),
    "parallel.tensor": (1, math.inf),
    "parallel.pipeline": (1, math.inf),
    "parallel.data": (1, math.inf),
    "parallel.context": (1, math.inf),
    "optim.lr": (0, math.inf),
    "optim.min_lr": (0, math.inf),
    "optim.warmup_steps": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.beta1": (0, 1),
    "optim.beta2": (0, 1),
    "optim.eps": (0, math.inf),
    "optim.clip_grad": (0, math.inf),
    "data.train_questions": (1, math.inf),
    "data.heldout_questions": (1, math.inf),
    "data.max_prompt_tokens": (1, math.inf),
    "label.samples": (1, math.inf),
    "label.temperature": (0, math.inf),
    "label.top_p": (0.001, 1),
    "label.max_new_tokens": (0, math.inf),
    "label.per_dataset": (0, math.inf),
    "label.per_level": (0, math.inf),
    "label.up_to": (0, math.inf),
    "rollout.port": (0, 2**16 - 1),
    "rollout.tensor": (1, math.inf),
    "rollout.engines": (1, math.inf),
    "rollout.api_servers": (0, math.inf),
    "rollout.max_num_seqs": (1, math.inf),
    "rollout.memory_gb": (0.01, math.inf),
    "rollout.threads": (0, math.inf),
    "rollout.gpu_memory_utilization": (0.01, 1),
    "rollout.temperature": (0.01, math.inf),  # the policy's log-probs are divided by it
    "rollout.top_p": (0.001, 1),
    "rollout.max_new_tokens": (1, math.inf),
    "rollout.request_timeout_s": (1, math.inf),
    "rollout.retries": (0, math.inf),
    "reward.port": (0, 2**16 - 1),
    "reward.max_batch": (1, math.inf),
    "reward.max_response_chars": (1, math.inf),
    "reward.request_timeout_s": (0.1, math.inf),
    "reward.retries": (0, math.inf),
    "grpo.steps": (1, math.inf),
    "grpo.questions_per_step": (1, math.inf),
    "grpo.samples_per_question": (2, math.inf),  # a group of one has nothing to compare with
    "grpo.advantage_eps": (0, math.inf),
    "grpo.clip_low": (0, 1),
    "grpo.clip_high": (0, math.inf),
    "grpo.kl_coef": (0, math.inf),
    "grpo.updates_per_batch": (1, math.inf),
    "grpo.epochs": (1, math.inf),
    "grpo.tokens_per_microbatch": (1, math.inf),
    "grpo.max_token_mult_prob_error": (1, math.inf),
    "grpo.max_logprob_difference": (0, math.inf),
    "grpo.max_sampling_rounds": (1, math.inf),
    "grpo.staleness": (0, math.inf),
    "grpo.save_every": (1, math.inf),
    "grpo.keep_checkpoints": (1, math.inf),
    "grpo.samples_kept": (0, math.inf),
    "evaluate.samples": (1, math.inf),
    "evaluate.temperature": (0, math.inf),
    "evaluate.top_p": (0.001, 1),
    "evaluate.max_new_tokens": (0, math.inf),
    "export.shard_gb": (0.001, math.inf),
}


def check_values(cfg: Config) -> None:
    """Every setting by itself; for every recipe.

    Raises:
        ValueError: one line with the key, what was found and what was expected.
    """
    for key, choices in CHOICES.items():
        found = setting(cfg, key)
        for value in found if isinstance(found, list) else [found]:
            if value not in choices:
                raise ValueError(f"{key}: found {value!r}, expected one of {', '.join(filter(None, choices))}")
    for key, (low, high) in RANGES.items():
        value = setting(cfg, key)
        if not low <= value <= high:
            expected = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
            raise ValueError(f"{key}: found {value}, expected {expected}")
    try:
        date.fromisoformat(cfg.data.template_date)
    except ValueError as error:
        raise ValueError(
            f"data.template_date: found {cfg.data.template_date!r}, expected a date such as 2024-07-26"
        ) from error
    if not cfg.run.name or cfg.run.name in (".", "..") or "/" in cfg.run.name:
        raise ValueError(f"run.name: found {cfg.run.name!r}, expected the name of a folder inside run.dir")


def check_training_values(cfg: Config) -> None:
    """Settings of a training run that do not go together.

    Raises:
        ValueError: one line with the keys, what was found and what was expected.
    """
    check_method(cfg.grpo)
    grpo, new_tokens = cfg.grpo, cfg.rollout.max_new_tokens
    if grpo.updates_per_batch > grpo.questions_per_step:
        raise ValueError(
            f"grpo.updates_per_batch: {grpo.updates_per_batch} mini-batches of {grpo.questions_per_step} questions "
            "leave some empty; lower it, or raise grpo.questions_per_step"
        )
    if grpo.tokens_per_microbatch < cfg.model.max_length:
        raise ValueError(
            f"grpo.tokens_per_microbatch: {grpo.tokens_per_microbatch} is less than model.max_length="
            f"{cfg.model.max_length}, and one sequence must fit; raise it, or lower model.max_length"
        )
    if grpo.overlong_penalty_tokens and not 0 < grpo.overlong_penalty_tokens <= new_tokens:
        raise ValueError(
            f"grpo.overlong_penalty_tokens: found {grpo.overlong_penalty_tokens}, expected 0 (off) to "
            f"rollout.max_new_tokens={new_tokens}"
        )
    if grpo.aggregation == "constant_length" and grpo.constant_length < 1:
        raise ValueError(
            f"grpo.constant_length: found {grpo.constant_length}, expected the divisor in tokens, for instance "
            f"rollout.max_new_tokens={new_tokens}, since grpo.aggregation is constant_length"
        )
    if not grpo.correction_low < 1 < grpo.correction_high:
        raise ValueError(
            f"grpo.correction_low and grpo.correction_high: found {grpo.correction_low} and {grpo.correction_high}, "
            "expected ratios below and above 1"
        )
    updates = grpo.steps * grpo.updates_per_batch * grpo.epochs
    if cfg.optim.schedule != "constant" and cfg.optim.warmup_steps >= updates:
        raise ValueError(
            f"optim.warmup_steps: found {cfg.optim.warmup_steps}, expected fewer than the {updates} updates"
        )
    if cfg.optim.min_lr > cfg.optim.lr:
        raise ValueError(f"optim.min_lr: found {cfg.optim.min_lr}, expected at most optim.lr={cfg.optim.lr}")


def setting(cfg: Config, key: str) -> Any:
    """The value of a dotted name."""
    section, name = key.split(".")
    return getattr(getattr(cfg, section), name)
