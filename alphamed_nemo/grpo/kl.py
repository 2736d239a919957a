"""Estimates of KL(current || other) for each token, from the log-probs of the token that was sampled.

Source: Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html. With d = other − current:

    k1 = −d                 unbiased, high variance; as a loss term its expected gradient is zero
    k2 = d² / 2             biased, always >= 0; its gradient is the unbiased one of the reverse KL
    k3 = exp(d) − d − 1     unbiased and always >= 0; the one of GRPO (https://arxiv.org/abs/2402.03300, eq. 4)
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.config.choices import KlEstimator, names

MAX_EXPONENT = 20.0  # exp(20) is 5e8: beyond it one token would be the whole loss


def kl_coefficient(grpo: GrpoConfig, step: int) -> float:
    """Weight of the KL term in a step's update: `kl_coef`, or with the linear schedule kl_coef · (1 − step / steps).

    Args:
        grpo: the method.
        step: steps done before it, 0 for the first.
    """
    return grpo.kl_coef if grpo.kl_schedule == "constant" else grpo.kl_coef * (1 - step / grpo.steps)


def kl_per_token(logprobs: Tensor, other: Tensor, estimator: str = "k3") -> Tensor:
    """KL estimate of each token, same shape and dtype as `logprobs`.

    Args:
        logprobs: log-probs of the distribution that sampled (or stands for it).
        other: log-probs of the same tokens under the distribution compared with.
        estimator: one of `KlEstimator`.

    Raises:
        ValueError: unknown estimator.
    """
    difference = other - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        difference = difference.clamp(-MAX_EXPONENT, MAX_EXPONENT)
        return torch.exp(difference) - difference - 1
    raise ValueError(f"grpo.kl_estimator: found {estimator!r}, expected one of {', '.join(names(KlEstimator))}")
