"""How long rank 0 may keep the other ranks waiting, by the limits that the settings give to what it waits for."""

from __future__ import annotations

from datetime import timedelta
from math import ceil

from alphamed_nemo.config import Config
from alphamed_nemo.patience import LONGEST_PAUSE_S
from alphamed_nemo.rewards.reward_client import BATCH_CHARS
from alphamed_nemo.rollout.client import requests_in_flight

CHARS_A_TOKEN = 8  # of a response, at most, on average
DISK_S = 1800.0  # to read, check or write a checkpoint: a terabyte at half a gigabyte a second


def longest_wait(cfg: Config) -> timedelta:
    """The limit of every collective: longer than all that one wait may hold together, which is a batch that is sampled
    ahead, a lost server that is started again, its refit, and a checkpoint.

    A rank that dies is noticed at once, by torchrun or Slurm; this is for one that hangs.
    """
    refit = cfg.run.component_timeout_s + 2 * cfg.rollout.request_timeout_s  # a call that fails, and one that ends it
    return timedelta(seconds=ceil(batch_s(cfg) + refit + DISK_S))


def batch_s(cfg: Config) -> float:
    """The longest that a batch may take to be sampled and scored."""
    grpo, rollout, reward = cfg.grpo, cfg.rollout, cfg.reward
    rounds = grpo.max_sampling_rounds if grpo.dynamic_sampling else 1
    # Every question travels alone (rollout/client.py); what does not fit into the queue waits for what does.
    in_turn = ceil(grpo.questions_per_step / requests_in_flight(grpo.samples_per_question, rollout))
    responses = grpo.questions_per_step * grpo.samples_per_question
    chars = responses * min(reward.max_response_chars, CHARS_A_TOKEN * rollout.max_new_tokens)
    requests = ceil(responses / reward.max_batch) + chars // BATCH_CHARS
    # A last try may begin as the time for tries ends.
    scoring = requests * (2 + reward.retries) * (reward.request_timeout_s + LONGEST_PAUSE_S)
    return rounds * (in_turn * rollout.request_timeout_s + scoring)
