"""Does the rollout server hold the weights that the trainer believes it holds? Asked from outside, by log-probs.

On CPU hosts vLLM keeps linear weights packed and its /weight_checker hashes an empty tensor for each, so a checksum
would call every refit a success.
"""

from __future__ import annotations

from collections.abc import Sequence

from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import RolloutError


def check_served_weights(
    client: RolloutClient, sequences: Sequence[tuple[list[int], list[float]]], tolerance: float
) -> float:
    """Compare the log-probs of given tokens by each of the server's engines with the trainer's.

    Args:
        sequences: (token ids, the trainer's log-softmax(logits) of token_ids[1:]); a few tokens are enough, since a
            step of training moves every log-prob.
        tolerance: largest difference allowed; below what one update moves, or an update that never arrived passes.

    Returns:
        The largest difference.

    Raises:
        RolloutError: it is above the tolerance.
    """
    worst = 0.0
    for token_ids, expected in sequences:
        for engine in range(client.cfg.engines):
            served = client.prompt_logprobs(token_ids, engine)
            worst = max([worst, *(abs(a - b) for a, b in zip(served, expected, strict=True))])
    if not worst <= tolerance:
        raise RolloutError(
            f"rollout server {client.connection.url} (weight version {client.weight_version()}) differs from the "
            f"trainer by {worst:.2e} in log-prob, at most {tolerance:.0e} expected: it holds other weights"
        )
    return worst
