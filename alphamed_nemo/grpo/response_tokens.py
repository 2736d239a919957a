"""The tokens of a pack that the loss falls on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.aggregation import sum_by_sequence
from alphamed_nemo.policy.packing import PackedBatch


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
    if old is None and cfg.needs_old_logprobs:
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
