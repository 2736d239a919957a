"""Weights that correct for tokens having been sampled by an engine whose log-probs are not quite the trainer's.

The rollout engine samples from its own numerics (other kernels, other precision, possibly older weights), while the
ratio of the loss is taken to the trainer's old log-probs. With d_t = old_t − rollout_t, the policy term of each token
is multiplied by a weight that carries no gradient:

    tis_token      min(exp(d_t), cap)                           truncated importance sampling [1]
    tis_sequence   min(exp(Σ_t d_t), cap)                       the same for the whole response [2]
    icepop         exp(d_t) if low <= exp(d_t) <= high else 0   IcePop [3]
    sequence_mask  1 if low <= exp(mean_t d_t) <= high else 0   geometric sequence mask [2]

[1] Yao et al. 2025, https://fengyao.notion.site/off-policy-rl
[2] Liu, Li et al. 2025, "When Speed Kills Stability",
    https://yingru.notion.site/271211a558b7808d8b12d403fd15edda
[3] Ring-1T, https://arxiv.org/abs/2510.18855

Tokens of weight 0 stay in the totals that the loss is divided by, as in IcePop's 1/|y|: dropping bad tokens must not
make the others louder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.config.choices import Correction, names
from alphamed_nemo.grpo.aggregation import sum_by_sequence
from alphamed_nemo.grpo.kl import MAX_EXPONENT


@torch.no_grad()
def correction_weights(old: Tensor, rollout: Tensor, sequence: Tensor, lengths: Tensor, cfg: GrpoConfig) -> Tensor:
    """Weight of each response token's policy term, without gradient.

    Args:
        old: [N] the trainer's log-probs under the weights before the update.
        rollout: [N] the engine's log-probs of the same tokens.
        sequence: [N] index of each token's sequence.
        lengths: [S] floating, response tokens of each sequence.
        cfg: its correction, correction_cap, correction_low and correction_high.

    Returns:
        [N] weights >= 0.

    Raises:
        ValueError: unknown correction.
    """
    difference = old - rollout
    if cfg.correction == "none":
        return torch.ones_like(difference)
    if cfg.correction == "tis_token":
        return _exp(difference).clamp(max=cfg.correction_cap)
    if cfg.correction == "icepop":
        ratio = _exp(difference)
        return torch.where(_inside(ratio, cfg), ratio, 0.0)
    totals = sum_by_sequence(difference, sequence, len(lengths))
    if cfg.correction == "tis_sequence":
        return _exp(totals).clamp(max=cfg.correction_cap)[sequence]
    if cfg.correction == "sequence_mask":
        mean_ratio = _exp(totals / lengths.clamp(min=1))
        return _inside(mean_ratio, cfg).to(difference.dtype)[sequence]
    raise ValueError(f"grpo.correction: found {cfg.correction!r}, expected one of {', '.join(names(Correction))}")


def _exp(difference: Tensor) -> Tensor:
    return torch.exp(difference.clamp(-MAX_EXPONENT, MAX_EXPONENT))


def _inside(ratio: Tensor, cfg: GrpoConfig) -> Tensor:
    return (ratio >= cfg.correction_low) & (ratio <= cfg.correction_high)
