"""The GRPO loss of one micro-batch, normalised by the counts of the whole mini-batch.

With r_t = exp(logp_t − old_t), A_t the advantage, c_t the correction weight and w_t the aggregation weight:

    loss = Σ_t w_t · [ c_t · policy_t + kl_coef · KL_t(current || reference) − entropy_coef · H_t ]

    clip        policy_t = −min(r_t A_t, clip(r_t, 1 − low, 1 + high) A_t)                             [1] eq. 3
                low and high apart: clip-higher                                                        [2]
    dual clip   where A_t < 0, policy_t is at most dual_clip · |A_t|                                   [3]
    gspo        as clip, with r_t replaced by exp(mean over the sequence of (logp − old))              [4]
    cispo       policy_t = −sg(clip(r_t, 1 − low, 1 + high)) A_t logp_t, sg: no gradient               [5] eq. 4

[1] GRPO, https://arxiv.org/abs/2402.03300      [2] DAPO, https://arxiv.org/abs/2503.14476
[3] dual-clip PPO, https://arxiv.org/abs/1912.09729      [4] GSPO, https://arxiv.org/abs/2507.18071
[5] MiniMax-M1, https://arxiv.org/abs/2506.13585

The sum of the returned losses over micro-batches and data-parallel ranks is the loss to differentiate. A sequence
never crosses packs, so sequence-level terms are whole within a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.aggregation import AGGREGATIONS, BatchTotals, sum_by_sequence, token_weights
from alphamed_nemo.grpo.correction import CORRECTIONS, correction_weights
from alphamed_nemo.grpo.kl import KL_ESTIMATORS, MAX_EXPONENT, kl_per_token
from alphamed_nemo.grpo.metrics import token_sums

if TYPE_CHECKING:
    from alphamed_nemo.policy.packing import PackedBatch

LOSSES = ("clip", "gspo", "cispo")
LossFn = Callable[[Tensor, Tensor | None, "PackedBatch"], tuple[Tensor, dict[str, Tensor]]]


@dataclass
class ResponseTokens:
    """The N response tokens of a micro-batch; prompts and padding are gone. All floats have the dtype of `logprobs`.

    Attributes:
        logprobs: [N] current policy, with gradient.
        old: [N] trainer's log-probs before the first update on this rollout batch.
        rollout: [N] the engine's log-probs.
        reference: [N] the reference policy's, or None.
        entropy: [N] of the current policy in nats, or None.
        advantages: [N].
        sequence: [N] int64 index of the sequence in the pack.
        lengths: [S] response tokens of each sequence; 0 for padding.
    """

    logprobs: Tensor
    old: Tensor
    rollout: Tensor
    reference: Tensor | None
    entropy: Tensor | None
    advantages: Tensor
    sequence: Tensor
    lengths: Tensor


def needs_old_logprobs(cfg: GrpoConfig) -> bool:
    """Whether the trainer must compute old log-probs beforehand.

    With one update on each rollout batch the current log-probs, detached, are the old ones, to the last bit and
    without a second forward pass.
    """
    return cfg.updates_per_batch * cfg.epochs > 1


def needs_entropy(cfg: GrpoConfig) -> bool:
    """Whether the loss cannot do without the entropy (otherwise it is only a metric)."""
    return cfg.entropy_coef != 0


def check_method(cfg: GrpoConfig) -> None:
    """Raises ValueError for a setting that names something that does not exist; the message lists what does."""
    for key, found, known in (
        ("loss", cfg.loss, LOSSES),
        ("aggregation", cfg.aggregation, AGGREGATIONS),
        ("kl_estimator", cfg.kl_estimator, KL_ESTIMATORS),
        ("correction", cfg.correction, CORRECTIONS),
    ):
        if found not in known:
            raise ValueError(f"grpo.{key}: found {found!r}, expected one of {', '.join(known)}")
    if cfg.dual_clip and (cfg.loss != "clip" or cfg.dual_clip <= 1):
        raise ValueError(
            f"grpo.dual_clip: found {cfg.dual_clip} with grpo.loss={cfg.loss}; expected 0 (off), "
            "or a value above 1 (3 is usual) with grpo.loss=clip"
        )


def make_loss(cfg: GrpoConfig, totals: BatchTotals) -> LossFn:
    """The loss function of one mini-batch, for `MegatronPolicy.train_step`.

    Args:
        cfg: the method's settings.
        totals: response tokens and sequences of the whole mini-batch, over all micro-batches and ranks.

    Returns:
        `loss_fn(logprobs [T], entropy [T] or None, batch) -> (loss, metrics)`; see `GrpoLoss.__call__`.

    Raises:
        ValueError: a setting names something that does not exist; the message lists what does.
    """
    check_method(cfg)
    return GrpoLoss(cfg, totals)


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
            per_token = per_token - cfg.entropy_coef * tokens.entropy
        return (weights * per_token).sum(), token_sums(tokens, ratio, kl, correction, cfg)


def select_response_tokens(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch, cfg: GrpoConfig
) -> ResponseTokens:
    """Take the response tokens out of a pack, so that nothing below needs a mask.

    Raises:
        ValueError: old or reference log-probs or the entropy are needed by `cfg` and absent.
    """
    mask = batch.mask
    reference = getattr(batch, "ref_logprobs", None)
    if cfg.kl_coef and reference is None:
        raise ValueError(f"grpo.kl_coef is {cfg.kl_coef}, but the batch has no ref_logprobs: compute them first")
    if cfg.entropy_coef and entropy is None:
        raise ValueError(f"grpo.entropy_coef is {cfg.entropy_coef}, but no entropy was computed")
    old = getattr(batch, "old_logprobs", None)
    if old is None and needs_old_logprobs(cfg):
        raise ValueError(
            f"grpo.updates_per_batch={cfg.updates_per_batch} and grpo.epochs={cfg.epochs} make several updates on one "
            "rollout batch, but the batch has no old_logprobs: compute them before the first update"
        )
    current = logprobs[mask]
    sequence = batch.sequence[mask].long()
    sequences = batch.cu_seqlens.numel() - 1  # shared parts and padding count as further ones, without response tokens
    return ResponseTokens(
        logprobs=current,
        old=current.detach() if old is None else old[mask].to(current.dtype),
        rollout=batch.rollout_logprobs[mask].to(current.dtype),
        reference=None if reference is None else reference[mask].to(current.dtype),
        entropy=None if entropy is None else entropy[mask],
        advantages=batch.advantages[mask].to(current.dtype),
        sequence=sequence,
        lengths=sum_by_sequence(torch.ones_like(current.detach()), sequence, sequences),
    )


def policy_loss(tokens: ResponseTokens, cfg: GrpoConfig) -> tuple[Tensor, Tensor]:
    """Policy term of each token and the (unclipped) ratio that it used, both [N]."""
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
