"""How long rank 0 may keep the other ranks waiting, by the limits that the settings give to what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from math import ceil

from alphamed_nemo.config import Config, RolloutConfig
from alphamed_nemo.patience import LONGEST_PAUSE_S
from alphamed_nemo.rewards.reward_client import BATCH_CHARS
from alphamed_nemo.rollout.pool import requests_in_flight

CHARS_A_TOKEN = 8  # of a response, at most, on average
WHOLE_SET = 5_000  # questions of a validation file that is asked whole, at most
DISK_S = 1800.0  # to read, check or write a checkpoint: a terabyte at half a gigabyte a second


def longest_wait(cfg: Config) -> timedelta:
    """The limit of every collective: longer than all that one wait may hold together, which is a batch that is sampled
    ahead, a lost server that is started again, its refit, and a checkpoint.

    A rank that dies is noticed at once, by torchrun or Slurm; this is for one that hangs.
    """
    refit = cfg.run.component_timeout_s + 2 * cfg.rollout.request_timeout_s  # a call that fails, and one that ends it
    return timedelta(seconds=ceil(max(batch_s(cfg), validation_s(cfg)) + refit + DISK_S))


def validation_s(cfg: Config) -> float:
    """The longest that a validation may take."""
    validate, rollout = cfg.validate, cfg.rollout
    if not validate.every:
        return 0.0
    questions = len(validate.questions) * (validate.size or WHOLE_SET)
    asked = [1, validate.samples] if validate.samples else [1]
    return _sampled_s([(questions, samples) for samples in asked], rollout)


def batch_s(cfg: Config) -> float:
    """The longest that a batch may take to be sampled and scored."""
    grpo, rollout, reward = cfg.grpo, cfg.rollout, cfg.reward
    rounds = grpo.max_sampling_rounds if grpo.dynamic_sampling else 1
    sampling = _sampled_s([(grpo.questions_per_step, grpo.samples_per_question)], rollout)
    responses = grpo.questions_per_step * grpo.samples_per_question
    chars = responses * min(reward.max_response_chars, CHARS_A_TOKEN * rollout.max_new_tokens)
    requests = ceil(responses / reward.max_batch) + chars // BATCH_CHARS
    # A last try may begin as the time for tries ends.
    scoring = requests * (2 + reward.retries) * (reward.request_timeout_s + LONGEST_PAUSE_S)
    return rounds * (sampling + scoring)


def _sampled_s(asked: Sequence[tuple[int, int]], rollout: RolloutConfig) -> float:
    """The longest that (questions, samples of each), one after the other, may take to be sampled.

    Every question travels alone (rollout/sampling.py); what does not fit into the queue of one server, if only that is
    left, waits for what does. Each server that hangs first keeps its requests for as long as one may take.
    """
    in_turn = sum(ceil(questions / requests_in_flight(samples, rollout)) for questions, samples in asked)
    return (in_turn + rollout.servers - 1) * rollout.request_timeout_s
