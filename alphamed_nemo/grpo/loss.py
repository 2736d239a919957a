"""The GRPO loss of one micro-batch, normalised by the counts of the whole mini-batch.

With r_t = exp(logp_t − old_t), A_t the advantage, c_t the correction weight and w_t the aggregation weight:

    loss = Σ_t w_t · [ c_t · policy_t + kl_coef · KL_t(current || reference) − entropy_coef · H_t ]

    clip        policy_t = −min(r_t A_t, clip(r_t, 1 − low, 1 + high) A_t)                             [1] eq. 3
                low and high apart: clip-higher                                                        [2]
    dual clip   where A_t < 0, policy_t is at most dual_clip · |A_t|                                   [3]
    gspo        as clip, with r_t replaced by exp(mean over the sequence of (logp − old))              [4]
    cispo       policy_t = −sg(clip(r_t, 1 − low, 1 + high)) A_t logp_t, sg: no gradient               [5] eq. 4
    file.py:f   policy_t of a function of the user's own, with this file's `policy_loss` as its form

[1] GRPO, https://arxiv.org/abs/2402.03300      [2] DAPO, https://arxiv.org/abs/2503.14476
[3] dual-clip PPO, https://arxiv.org/abs/1912.09729      [4] GSPO, https://arxiv.org/abs/2507.18071
[5] MiniMax-M1, https://arxiv.org/abs/2506.13585

The sum of the returned losses over micro-batches and data-parallel ranks is the loss to differentiate. A sequence
never crosses packs, so sequence-level terms are whole within a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphamed_nemo import user_code
from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.aggregation import BatchTotals, sum_by_sequence, token_weights
from alphamed_nemo.grpo.correction import correction_weights
from alphamed_nemo.grpo.kl import MAX_EXPONENT, kl_per_token
from alphamed_nemo.grpo.metrics import token_sums
from alphamed_nemo.grpo.response_tokens import ResponseTokens, select_response_tokens
from alphamed_nemo.policy.packing import PackedBatch

LossFn = Callable[[Tensor, Tensor | None, PackedBatch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class GrpoLoss:
    """Callable loss; see the module docstring for the formula."""

    cfg: GrpoConfig
    totals: BatchTotals

    def __call__(
        self, logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metric sums of one micro-batch.

        Args:
            logprobs: [T] log-softmax(logits / temperature) of the targets, with gradient.
            entropy: [T] nats, or None where it was not computed.
            batch: the pack; its `old_logprobs` and `ref_logprobs` may be None.

        Returns:
            A scalar that already carries 1 / global counts, and detached sums over this micro-batch's tokens
            (see `metrics`); a pack of padding alone gives a zero that still has a gradient.

        Raises:
            ValueError: a tensor that the settings need is missing.
        """
        cfg = self.cfg
        tokens = select_response_tokens(logprobs, entropy, batch, cfg)
        weights = token_weights(tokens.sequence, tokens.lengths, self.totals, cfg.aggregation, cfg.constant_length)
        correction = correction_weights(tokens.old, tokens.rollout, tokens.sequence, tokens.lengths, cfg)
        policy, ratio = policy_loss(tokens, cfg)
        per_token = correction * policy

        kl = None
        if tokens.reference is not None:
            kl = kl_per_token(tokens.logprobs, tokens.reference, cfg.kl_estimator)
            if cfg.kl_coef:
                per_token = per_token + cfg.kl_coef * kl
        if cfg.entropy_coef:
            assert tokens.entropy is not None  # else select_response_tokens has refused
            per_token = per_token - cfg.entropy_coef * tokens.entropy
        return (weights * per_token).sum(), token_sums(tokens, ratio, kl, correction, cfg)


def policy_loss(tokens: ResponseTokens, cfg: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Policy term of each token and the (unclipped) ratio that it used, both [N]."""
    if cfg.has_own_loss:
        return own_policy_loss(tokens, cfg)
    log_ratio = tokens.logprobs - tokens.old
    if cfg.loss == "gspo":
        means = sum_by_sequence(log_ratio, tokens.sequence, len(tokens.lengths)) / tokens.lengths.clamp(min=1)
        log_ratio = means[tokens.sequence]
    ratio = torch.exp(log_ratio.clamp(-MAX_EXPONENT, MAX_EXPONENT))
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    if cfg.loss == "cispo":
        return -clipped.detach() * tokens.advantages * tokens.logprobs, ratio

    loss = torch.maximum(-ratio * tokens.advantages, -clipped * tokens.advantages)
    if cfg.dual_clip:
        ceiling = -cfg.dual_clip * tokens.advantages
        loss = torch.where(tokens.advantages < 0, torch.minimum(loss, ceiling), loss)
    return loss, ratio


def own_policy_loss(tokens: ResponseTokens, cfg: GrpoConfig) -> tuple[Tensor, Tensor]:
    """The same by the user's function: `function(tokens=..., cfg=...)` → policy term and ratio, both [N].

    Raises:
        ValueError: the function cannot be loaded, or returns something else.
    """
    found = user_code.load(cfg.loss, "grpo.loss")(tokens=tokens, cfg=cfg)
    expected = tokens.logprobs.shape
    if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        raise ValueError(f"grpo.loss: {cfg.loss} returned {type(found).__name__}, expected (policy term, ratio)")
    for name, part in zip(("policy term", "ratio"), found, strict=True):
        if part.shape != expected:
            raise ValueError(
                f"grpo.loss: {cfg.loss} returned a {name} of shape {tuple(part.shape)}, expected {tuple(expected)}: "
                "one number for each response token; grpo.aggregation makes the mean"
            )
    if torch.is_grad_enabled() and not found[0].requires_grad:
        raise ValueError(f"grpo.loss: {cfg.loss} returned a policy term without a gradient; make it of tokens.logprobs")
    return found
