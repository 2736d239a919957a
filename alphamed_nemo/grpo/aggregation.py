"""From a value for each token to one loss, normalised by the counts of the whole mini-batch.

The counts are global: a mean of micro-batch means weighs a token by how its micro-batch happened to be packed. So each
token gets a weight, made of totals that the trainer counts before it splits the mini-batch, and the loss is the plain
sum of weight × value over micro-batches and data-parallel ranks.

| aggregation | weight of a token of sequence s | source |
| --- | --- | --- |
| token_mean | 1 / all response tokens | DAPO, https://arxiv.org/abs/2503.14476 eq. 8 |
| sequence_mean | 1 / (sequences × length of s) | GRPO, https://arxiv.org/abs/2402.03300 eq. 3 |
| constant_length | 1 / (sequences × constant) | Dr. GRPO, https://arxiv.org/abs/2503.20783 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphamed_nemo.config.choices import Aggregation, names
from alphamed_nemo.policy.packing import TrainSequence


@dataclass(frozen=True)
class BatchTotals:
    """Counts over the whole mini-batch: all its micro-batches on all data-parallel ranks.

    Attributes:
        tokens: response tokens.
        sequences: responses.
    """

    tokens: int
    sequences: int

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.sequences < 1:
            raise ValueError(
                f"mini-batch of {self.sequences} sequences and {self.tokens} response tokens has nothing to train on; "
                "every response was filtered, or no group is an effective query"
            )

    @classmethod
    def of(cls, sequences: Sequence[TrainSequence]) -> BatchTotals:
        """Totals of the mini-batch's sequences, before they are packed and dealt to ranks."""
        return cls(tokens=sum(len(sequence.response_ids) for sequence in sequences), sequences=len(sequences))


def sum_by_sequence(values: Tensor, sequence: Tensor, sequences: int) -> Tensor:
    """Sums of [N] values by their sequence index [N], as [sequences]. Differentiable."""
    return torch.zeros(sequences, dtype=values.dtype, device=values.device).index_add(0, sequence, values)


def token_weights(
    sequence: Tensor, lengths: Tensor, totals: BatchTotals, aggregation: str, constant_length: int = 0
) -> Tensor:
    """Weight of each response token in the loss.

    Args:
        sequence: [N] index of each token's sequence in the micro-batch.
        lengths: [S] floating, response tokens of each sequence; its dtype is that of the result.
        totals: counts over the whole mini-batch.
        aggregation: one of `Aggregation`.
        constant_length: tokens, for constant_length only.

    Returns:
        [N] weights.

    Raises:
        ValueError: unknown aggregation, or no constant length where one is needed.
    """
    if aggregation == "token_mean":
        return torch.full_like(lengths[sequence], 1 / totals.tokens)
    if aggregation == "sequence_mean":
        return 1 / (lengths[sequence] * totals.sequences)
    if aggregation == "constant_length":
        if constant_length < 1:
            raise ValueError(
                f"grpo.constant_length: found {constant_length}, expected the divisor in tokens, "
                "for instance rollout.max_new_tokens, since grpo.aggregation is constant_length"
            )
        return torch.full_like(lengths[sequence], 1 / (totals.sequences * constant_length))
    raise ValueError(f"grpo.aggregation: found {aggregation!r}, expected one of {', '.join(names(Aggregation))}")
