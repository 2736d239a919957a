"""Do the rollout servers hold the weights that the trainer believes they hold? Asked from outside, by log-probs.

On CPU hosts vLLM keeps linear weights packed and its /weight_checker hashes an empty tensor for each, so a checksum
would call every refit a success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.pool import RolloutPool

# The relative change of every weight that passes for rounding, by the coarser type of the two sides. Measured in such
# changes (docs/rollout.md), two programs were 5e-7 apart in float32, and 0.5% where one or both round to bfloat16; FP8
# was not measured, and rounds weights alone by 3%.
RELATIVE = {"float32": 4e-6, "bfloat16": 1.2e-2, "fp8": 0.12}


def tolerance(rounding: str, sensitivity: float, logprobs: Sequence[float]) -> float:
    """The largest difference that is rounding, in nats (root mean square over tokens).

    Args:
        rounding: the coarsest type that either side computes in, a key of RELATIVE.
        sensitivity: nats per relative change of the weights (`policy.sensitivity`).
        logprobs: the trainer's; they too are rounded, which counts where the weights move them little.
    """
    return RELATIVE[rounding] * max(sensitivity, rms(logprobs))


def served_difference(client: RolloutClient, token_ids: list[int], expected: Sequence[float]) -> float:
    """Root mean square of served minus expected log-probs of token_ids[1:], in nats: of the engine that is worst."""
    return max(
        rms([a - b for a, b in zip(client.prompt_logprobs(token_ids, engine), expected, strict=True)])
        for engine in range(client.cfg.engines)
    )


def check_served_weights(
    pool: RolloutPool, sequences: Sequence[tuple[list[int], list[float]]], tolerance: float
) -> float:
    """Compare the log-probs of given tokens by each engine of each server with the trainer's.

    Args:
        sequences: (token ids, the trainer's log-softmax(logits) of token_ids[1:]).
        tolerance: largest difference allowed, in nats, root mean square over a sequence.

    Returns:
        The largest difference.

    Raises:
        RolloutError: it is above the tolerance, or is no number.
    """
    found = []
    for client in pool.serving:
        worst = max(served_difference(client, token_ids, expected) for token_ids, expected in sequences)
        if not worst <= tolerance:
            raise other_weights(client, worst, tolerance)
        found.append(worst)
    return max(found)


def other_weights(client: RolloutClient, difference: float, tolerance: float) -> RolloutError:
    return RolloutError(
        f"rollout server {client.connection.url} (weight version {client.weight_version()}) differs from the trainer "
        f"by {difference:.2g} nats in the log-probs of given tokens (root mean square; rounding explains at most "
        f"{tolerance:.2g}): it holds other weights"
    )


def rms(values: Sequence[float]) -> float:
    """Root mean square; NaN where one value is."""
    return math.sqrt(sum(value * value for value in values) / len(values))
