"""A policy loss of one's own: soft adaptive policy optimization, where a smooth gate takes the place of the clip.

    ./run train_grpo experiment=tiny grpo.loss=examples/sapo_loss.py:sapo_loss grpo.updates_per_batch=2

With r = exp(logp − old) and the temperature τ by the sign of the advantage A:

    policy = −A · σ(τ (r − 1)) · 4 / τ

At r = 1 the gradient is that of −r A, and it fades on both sides. Source: SAPO, https://arxiv.org/abs/2511.20347.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.response_tokens import ResponseTokens

POSITIVE, NEGATIVE = 1.0, 1.05  # temperatures; the paper's: tokens that become rarer fade a little sooner
MAX_LOG_RATIO = 20.0  # so that exp stays finite


def sapo_loss(tokens: ResponseTokens, cfg: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Policy term of each response token and its ratio, both [N]. Aggregation, correction, KL and entropy follow."""
    ratio = torch.exp((tokens.logprobs - tokens.old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    temperature = torch.full_like(ratio, NEGATIVE).masked_fill(tokens.advantages > 0, POSITIVE)
    gate = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
    return -tokens.advantages * gate, ratio
