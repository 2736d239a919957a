"""What comes back from the rollout engine."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass
class Rollout:
    """One sampled response.

    Attributes:
        prompt_ids: token ids sent, length P.
        response_ids: token ids sampled, int32 of length R; ends with the end-of-sequence token unless truncated.
        logprobs: float32 of length R, log-softmax(logits / temperature) of each sampled token, before top-p.
        weight_version: version of the weights that sampled it (0: the base model; n: after the n-th update).
        truncated: the length limit ended it.
        text: response_ids decoded, special tokens skipped.
    """

    prompt_ids: list[int]
    response_ids: array[int]
    logprobs: array[float]
    weight_version: int
    truncated: bool
    text: str
