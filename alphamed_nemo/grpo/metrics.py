"""Metrics of the loss as sums over tokens, and the means that they become at the end of a step.

A micro-batch returns sums, which add up over micro-batches, data-parallel ranks and updates whatever their sizes;
names that end in `_max` are reduced by maximum. Only `finish_metrics` divides.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.kl import MAX_EXPONENT, kl_per_token
from alphamed_nemo.grpo.response_tokens import ResponseTokens

# sum returned by the loss -> name in metrics.jsonl of its mean over response tokens
MEANS = {
    "ratio_sum": "ratio/mean",
    "clipped_low": "ratio/clipped_low",
    "clipped_high": "ratio/clipped_high",
    "old_kl_sum": "old_kl",
    "entropy_sum": "entropy",
    "kl_sum": "kl",
    "token_mult_prob_error_sum": "token_mult_prob_error",
    "logprob_difference_sum": "logprob_difference_mean",
    "gen_kl_error_sum": "gen_kl_error",
    "correction_sum": "correction/mean",
    "correction_masked": "correction/masked",
}


@torch.no_grad()
def token_sums(
    tokens: ResponseTokens, ratio: Tensor, kl: Tensor | None, correction: Tensor, cfg: GrpoConfig
) -> dict[str, Tensor]:
    """Sums over the response tokens of one micro-batch, as detached scalars.

    - tokens: their number; every other sum is divided by it at the end.
    - ratio_sum, clipped_low, clipped_high: of the ratio that the loss uses; a token counts as clipped where clipping
      takes its gradient (clip, gspo) or changes its weight (cispo). A loss of the user's own may clip in other ways, or
      not at all: nothing is counted then.
    - old_kl_sum: KL(old || current), k3; zero where one update is made on a rollout batch.
    - entropy_sum, kl_sum: present where the entropy or reference log-probs are.
    - token_mult_prob_error_sum: Σ exp|rollout − trainer|, the trainer under the weights before the update.
    - logprob_difference_sum: Σ |rollout − trainer|.
    - gen_kl_error_sum: Σ k3 of KL(rollout || trainer).
    - logprob_difference_max: largest |rollout − trainer|.
    - correction_sum, correction_masked: weights of the mismatch correction, and how many are zero.
    """
    difference = (tokens.rollout - tokens.old).abs()
    low, high = ratio < 1 - cfg.clip_low, ratio > 1 + cfg.clip_high
    if cfg.loss != "cispo":  # min(r A, clip(r) A) takes the clipped branch on one side only, by the sign of A
        low, high = low & (tokens.advantages < 0), high & (tokens.advantages > 0)
    sums = {
        "tokens": torch.ones_like(difference).sum(),
        "ratio_sum": ratio.sum(),
        "old_kl_sum": kl_per_token(tokens.old, tokens.logprobs).sum(),
        "token_mult_prob_error_sum": torch.exp(difference.clamp(max=MAX_EXPONENT)).sum(),
        "logprob_difference_sum": difference.sum(),
        "gen_kl_error_sum": kl_per_token(tokens.rollout, tokens.old).sum(),
        "logprob_difference_max": torch.cat([difference, difference.new_zeros(1)]).max(),
    }
    if not cfg.has_own_loss:
        sums |= {"clipped_low": low.sum(), "clipped_high": high.sum()}
    if tokens.entropy is not None:
        sums["entropy_sum"] = tokens.entropy.sum()
    if kl is not None:
        sums["kl_sum"] = kl.sum()
    if cfg.correction != "none":
        sums["correction_sum"] = correction.sum()
        sums["correction_masked"] = (correction == 0).sum()
    return {name: value.detach().to(torch.float64) for name, value in sums.items()}


def add_sums(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Join the sums of several updates: add, or take the maximum or minimum by the name's ending."""
    joined: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            if name not in joined:
                joined[name] = value
            elif name.endswith("_max"):
                joined[name] = max(joined[name], value)
            elif name.endswith("_min"):
                joined[name] = min(joined[name], value)
            else:
                joined[name] += value
    return joined


def finish_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Metric names of metrics.jsonl from sums over all tokens of a step.

    Raises:
        ValueError: no token was counted.
    """
    tokens = sums["tokens"]
    if tokens < 1:
        raise ValueError("metrics of a step without response tokens: nothing was trained on")
    metrics = {name: float(sums[key]) / tokens for key, name in MEANS.items() if key in sums}
    metrics["logprob_difference_max"] = float(sums["logprob_difference_max"])
    metrics["trained_tokens"] = float(tokens)
    return metrics
