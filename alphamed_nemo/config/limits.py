"""What settings may hold, whatever the model and the machine: choices, ranges, and pairs that clash."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Any, Literal, get_args, get_origin

from alphamed_nemo.config.files import SECRETS, known_settings, settings_of
from alphamed_nemo.config.hosts import is_every_interface
from alphamed_nemo.config.ranges import RANGE
from alphamed_nemo.config.resuming import acceptable
from alphamed_nemo.config.schema import Config, EvaluateConfig, RewardConfig
from alphamed_nemo.config.scrub import secret_places

LONGEST_NAME = 255  # bytes of a file's name, on every file system in use
MOST_STOPS = 4  # that vLLM, like the API that it serves, takes in one request


def check_values(cfg: Config) -> None:
    """Every setting by itself; for every recipe.

    Raises:
        ValueError: one line with the key, what was found and what was expected.
    """
    for key, hint, field in known_settings():
        _check_value(key, setting(cfg, key), hint, field.metadata)
    for group, sources in (("train", cfg.sources.train), ("evaluation", cfg.sources.evaluation)):
        for name, source in sources.items():
            for key, hint, field in settings_of(type(source)):
                _check_value(f"sources.{group}.{name}.{key}", getattr(source, key), hint, field.metadata)
    try:
        date.fromisoformat(cfg.data.template_date)
    except ValueError as error:
        raise ValueError(
            f"data.template_date: found {cfg.data.template_date!r}, expected a date such as 2024-07-26"
        ) from error
    check_weights(cfg.reward)
    check_evaluation(cfg.evaluate)
    for name in cfg.run.accept_changes:
        if name not in acceptable():
            raise ValueError(f"run.accept_changes: found {name!r}, expected some of {', '.join(acceptable())}")
    check_secrets(cfg)
    if is_every_interface(cfg.rollout.host):
        raise ValueError(
            f"rollout.host: found {cfg.rollout.host!r}, which listens on all interfaces; name loopback or the job's "
            "own interface"
        )
    if cfg.rollout.urls and cfg.rollout.servers not in (1, len(cfg.rollout.urls)):
        raise ValueError(
            f"rollout.servers: found {cfg.rollout.servers} with {len(cfg.rollout.urls)} rollout.urls, which say how "
            "many there are; leave one of the two out"
        )
    check_name(cfg.run.name)
    if cfg.label.temperature == 0 and cfg.label.samples > 1:
        raise ValueError(
            f"label.temperature: found 0, at which all {cfg.label.samples} samples of a question are alike, so that "
            "every level but the first and the last would be empty; raise it, or set label.samples=1"
        )


def check_evaluation(evaluate: EvaluateConfig) -> None:
    """What evaluate does is one of several things, and can be asked of vLLM.

    Raises:
        ValueError: two of them are asked for at once; more stop texts than a request takes, or an empty one.
    """
    stop = evaluate.stop or []
    if len(stop) > MOST_STOPS or "" in stop:
        raise ValueError(f"evaluate.stop: found {stop}, expected up to {MOST_STOPS} texts, none of them empty")
    asked = [name for name in ("suite", "responses", "compare") if getattr(evaluate, name)]
    if len(asked) > 1:
        raise ValueError(f"evaluate.{asked[0]} and evaluate.{asked[1]} are both set; evaluate does one of them")
    if evaluate.sets and not evaluate.suite:
        raise ValueError("evaluate.sets: names sets of a suite; set evaluate.suite too")
    if evaluate.against and (evaluate.suite or evaluate.compare):
        raise ValueError("evaluate.against: is for a single evaluation; compare results with evaluate.compare")


def check_name(name: str) -> None:
    """The name of a run, which is a folder's.

    Raises:
        ValueError: it names another folder, is too long, or has characters that break lines of logs and scripts.
    """
    if not name or name in (".", "..") or "/" in name or not name.isprintable():
        raise ValueError(f"run.name: found {name!r}, expected the name of a folder inside run.dir")
    if (length := len(os.fsencode(name))) > LONGEST_NAME:
        raise ValueError(f"run.name: found {name[:20]!r}… of {length} bytes, expected at most {LONGEST_NAME}")


def check_secrets(cfg: Config) -> None:
    """Keys other than those of the servers: files of the run, and command lines of its processes, would show them.

    Raises:
        ValueError: names the setting, not its value.
    """
    settings = asdict(cfg)
    for section, name in SECRETS:
        settings[section].pop(name)
    if found := next(secret_places(settings), None):
        raise ValueError(
            f"{found}: found a key, token or password, which the run's files would show; set it in the environment, "
            "where the library looks for it (WANDB_API_KEY, MLFLOW_TRACKING_PASSWORD, HF_TOKEN), and not in a setting"
        )


def check_weights(reward: RewardConfig) -> None:
    """The weights of `reward.functions`.

    Raises:
        ValueError: they are not finite, not as many as the functions, or all zero.
    """
    functions, weights = len(reward.functions), len(reward.weights)
    if weights and weights != functions:
        raise ValueError(f"reward.weights: found {weights} for {functions} reward.functions, expected one for each")
    for weight in reward.weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"reward.weights: found {weight!r}, expected finite numbers")
    if reward.weights and not any(reward.weights):
        raise ValueError("reward.weights: all are 0, so every reward would be; give one function another")


def _check_value(key: str, found: Any, hint: Any, metadata: Mapping[str, Any]) -> None:
    """One setting against the choices of its type and the range of its field."""
    if get_origin(hint) is list:
        for each in found:
            _check_value(key, each, get_args(hint)[0], metadata)
    elif get_origin(hint) is Literal:
        if found not in get_args(hint) and not ("own" in metadata and ":" in found):
            expected = ", ".join(filter(None, (*get_args(hint), metadata.get("own"))))
            near = difflib.get_close_matches(str(found), get_args(hint), n=1)
            hint_at = f"; the nearest is {near[0]}" if near else ""
            raise ValueError(f"{key}: found {found!r}, expected one of {expected}{hint_at}")
    elif RANGE in metadata and isinstance(found, Mapping):
        for name, each in found.items():
            _check_value(f"{key}.{name}", each, type(each), metadata)
    elif RANGE in metadata and found is not None and found not in metadata[RANGE]:
        raise ValueError(f"{key}: found {found}, expected {metadata[RANGE]}")


def check_training_values(cfg: Config) -> None:
    """Settings of a training run that do not go together.

    Raises:
        ValueError: one line with the keys, what was found and what was expected.
    """
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
    if grpo.overlong_penalty_tokens > new_tokens:
        raise ValueError(
            f"grpo.overlong_penalty_tokens: found {grpo.overlong_penalty_tokens}, expected 0 (off) to "
            f"rollout.max_new_tokens={new_tokens}"
        )
    if grpo.aggregation == "constant_length" and grpo.constant_length < 1:
        raise ValueError(
            f"grpo.constant_length: found {grpo.constant_length}, expected the divisor in tokens, for instance "
            f"rollout.max_new_tokens={new_tokens}, since grpo.aggregation is constant_length"
        )
    if grpo.dual_clip and (grpo.loss != "clip" or grpo.dual_clip <= 1):
        raise ValueError(
            f"grpo.dual_clip: found {grpo.dual_clip} with grpo.loss={grpo.loss}; expected 0 (off), "
            "or a value above 1 (3 is usual) with grpo.loss=clip"
        )
    if grpo.pool_easy + grpo.pool_hard > 1:
        raise ValueError(
            f"grpo.pool_easy: found {grpo.pool_easy} with grpo.pool_hard={grpo.pool_hard}, expected shares that are "
            "at most 1 together"
        )
    if cfg.lora.rank and (not cfg.lora.targets or len(set(cfg.lora.targets)) < len(cfg.lora.targets)):
        raise ValueError(f"lora.targets: found {cfg.lora.targets}, expected one layer or more, each once")
    updates = grpo.steps * grpo.updates_per_batch * grpo.epochs
    if cfg.optim.warmup_steps >= updates:
        raise ValueError(
            f"optim.warmup_steps: found {cfg.optim.warmup_steps}, expected fewer than the run's {updates} updates "
            "(grpo.steps × grpo.updates_per_batch × grpo.epochs)"
        )
    if cfg.optim.min_lr > cfg.optim.lr:
        raise ValueError(f"optim.min_lr: found {cfg.optim.min_lr}, expected at most optim.lr={cfg.optim.lr}")


def setting(cfg: Config, key: str) -> Any:
    """The value of a dotted name."""
    section, name = key.split(".")
    return getattr(getattr(cfg, section), name)
