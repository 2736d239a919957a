"""Metrics that need no model: what was asked, how it was answered, how long the answers are."""

from __future__ import annotations

from statistics import fmean

from alphamed_nemo.answers.reasoned import reasons
from alphamed_nemo.config import Config
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.rewards.score import Score


def rollout_metrics(collected: Collected, cfg: Config) -> dict[str, float]:
    """Metrics of one rollout batch by their names in metrics.jsonl.

    `effective_query_ratio` and `frac_reward_zero_std` count every group that was sampled, also those that dynamic
    sampling replaced, and `effective_query_ratio/L<level>` the same for one level; `batch_effective_ratio` counts the
    groups trained on. `question_passes` is how often the training questions have been asked by now, on average,
    `pools/<pool>` the share of them that is in a pool of `grpo.curriculum=pools` once the batch is sampled.
    Lengths are in tokens, ratios in 0..1. With `reward.functions`, `reward/mean` is their weighted sum and
    `reward/<function>` what each gave before its weight; `reward/correct` is then the share of right answers.
    """
    rollouts = [rollout for group in collected.groups for rollout in group.rollouts]
    scores = [score for group in collected.groups for score in group.scores]
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    effective = collected.asked_effective / collected.asked
    by_level = sorted(collected.by_level.items())
    passes = collected.stream.get("passes")
    return {
        "reward/mean": fmean(score.reward for score in scores),
        **reward_parts(scores),
        "effective_query_ratio": effective,
        "frac_reward_zero_std": 1.0 - effective,
        **{f"effective_query_ratio/L{level}": uneven / asked for level, (asked, uneven) in by_level},
        "batch_effective_ratio": fmean(group.effective for group in collected.groups),
        "response_length/mean": fmean(lengths),
        "response_length/max": float(max(lengths)),
        "response_length/clip_ratio": fmean(rollout.truncated for rollout in rollouts),
        "unparsable_ratio": fmean(score.answer is None for score in scores),
        "reasoned_ratio": fmean(reasons(rollout.text) for rollout in rollouts),
        **({} if passes is None else {"question_passes": passes}),
        **{f"pools/{pool}": share for pool, share in collected.stream.get("pools", {}).items()},
        "sampling_rounds": float(collected.rounds),
        "rollout_servers": float(collected.servers),
        "weight_version": float(min(rollout.weight_version for rollout in rollouts)),
    }


def reward_parts(scores: list[Score]) -> dict[str, float]:
    """`reward/<part>`: the mean over the responses that have the part. A function may name parts for some only."""
    parts: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.parts.items():
            parts.setdefault(name, []).append(value)
    return {f"reward/{name}": fmean(values) for name, values in parts.items()}
