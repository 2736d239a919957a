"""Metrics of the loss as sums over tokens, the means that they become at the end of a step, and the gates on those.

A micro-batch returns sums, which add up over micro-batches, data-parallel ranks and updates whatever their sizes;
names that end in `_max` are reduced by maximum. Only `finish_metrics` divides.

The gates stop a run whose trainer and rollout engine disagree, or that has a number that is not finite. Training on
log-probs that are not the sampler's drifts without any other sign, so this is measured on every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

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
    "gen_kl_error_sum": "gen_kl_error",
    "correction_sum": "correction/mean",
    "correction_masked": "correction/masked",
}

LIKELY_CAUSES = """Likely causes, the commonest first:
  - the engine samples with older weights than it says: see its log and the refit lines of the trainer's;
  - temperature or top-p: both sides must report log-softmax(logits / temperature), before top-p;
  - precision: model.dtype and rollout.dtype differ, or FP8 on one side only (widen the gate for FP8 alone, with
    grpo.correction=tis_token);
  - a fused kernel on one side: rope and bias-activation fusion have done this before;
  - rope scaling, tied embeddings or padded vocabulary ids that one side handles differently: the export check
    (recipes/convert_to_hf.py) compares the two on logits."""


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


class MismatchError(RuntimeError):
    """Trainer and rollout engine disagree on the log-probs of the sampled tokens, or a metric is not finite."""


def check_gates(metrics: Mapping[str, float], cfg: GrpoConfig, step: int) -> None:
    """Stop the run where this step must not be built upon.

    Rollouts of older weights (`grpo.staleness`) differ from the trainer by what it has learnt since, which is no fault:
    for them only finiteness is asked. A server that serves other weights than it says is caught by the first gate.

    Args:
        metrics: the step's finished metrics; token_mult_prob_error, logprob_difference_max and weight_version are
            needed.
        cfg: max_token_mult_prob_error and max_logprob_difference, each off at 0.
        step: version of the weights that this step starts from.

    Raises:
        MismatchError: a value is not finite or a gate is passed; the message says which, by how much, and why it may
            have happened.
    """
    broken = [f"{name} is {value}" for name, value in sorted(metrics.items()) if not math.isfinite(value)]
    if broken:
        raise MismatchError(
            f"step {step}: {', '.join(broken)}. If grad_norm alone is not finite, lower optim.lr or set "
            f"optim.clip_grad; if a log-prob metric is not, the two sides disagree.\n{LIKELY_CAUSES}"
        )
    if metrics["weight_version"] < step:
        return
    for metric, key, neutral in (
        ("token_mult_prob_error", "max_token_mult_prob_error", "1 is exact agreement"),
        ("logprob_difference_max", "max_logprob_difference", "nats"),
    ):
        limit = getattr(cfg, key)
        if limit > 0 and metrics[metric] > limit:
            raise MismatchError(
                f"step {step}: {metric} is {metrics[metric]:.6g} ({neutral}), above grpo.{key}={limit:g}. Trainer and "
                f"rollout engine disagree on the log-probs of sampled tokens.\n{LIKELY_CAUSES}"
            )
