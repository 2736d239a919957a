"""How far log-probs move when the weights do: what tells rounding from other weights, whatever the model.

Two programs that compute with the same weights differ by rounding, and how much of that reaches the log-probs depends
on the model: its depth, its width, how large its logits are. A small relative change of every weight takes the same
ways, so rounding counted in such changes is nearly the same for all models (docs/rollout.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from alphamed_nemo.policy.packing import PackedBatch
from alphamed_nemo.policy.policy import MegatronPolicy

BITS = (5, 6, 7)  # flipping bit b of a mantissa 1.xxx changes a weight by 2^-b over the mantissa; bfloat16 has 7 bits
# Root mean square of 1 / mantissa, where mantissas are spread as those of weights are: density 1 / (m ln 2) on [1, 2).
MEAN_INVERSE_MANTISSA = math.sqrt(0.375 / math.log(2))
MANTISSA = {torch.float32: (torch.int32, 23), torch.bfloat16: (torch.int16, 7), torch.float16: (torch.int16, 10)}


def sensitivity(policy: MegatronPolicy, batch: PackedBatch, temperature: float = 1.0) -> Tensor:
    """Change of each log-prob of a batch per relative change of every matrix of the policy. Collective.

    Args:
        policy: left as it was, to the last bit.
        batch: one micro-batch.
        temperature: divides the logits.

    Returns:
        float64 [N] for the N response tokens: nats, root mean square over the bits, for a relative change of 1. A
        change of a thousandth moves a log-prob by a thousandth of this.
    """
    own = policy.logprobs([batch], temperature)[0][batch.mask].double()
    squares = torch.zeros_like(own)
    for bit in BITS:
        with flipped(policy, bit):
            moved = policy.logprobs([batch], temperature)[0][batch.mask].double()
        squares += ((moved - own) / (2.0**-bit * MEAN_INVERSE_MANTISSA)).square()
    return (squares / len(BITS)).sqrt()


@contextmanager
def flipped(policy: MegatronPolicy, bit: int) -> Iterator[None]:
    """Every matrix with that bit of its mantissas flipped, up or down as the weight has it; exactly restored after.

    Needs no copy of the weights, and changes equal weights equally on all ranks that hold them. Norms and biases are
    left: many are all alike, and would all move one way.
    """
    _flip(policy, bit)
    try:
        yield
    finally:
        _flip(policy, bit)


def _flip(policy: MegatronPolicy, bit: int) -> None:
    for chunk in policy.model:
        for parameter in chunk.parameters():
            if parameter.ndim >= 2:
                integer, bits = MANTISSA[parameter.dtype]
                parameter.detach().view(integer).bitwise_xor_(1 << (bits - bit))
