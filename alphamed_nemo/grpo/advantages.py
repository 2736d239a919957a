"""Advantages of one group: the rewards of the responses to one question, turned into their training signal.

Every kind subtracts a baseline from the same group, so a group of equal rewards (not an effective query) gives exact
zeros. Groups are independent: nothing here looks across questions.

| kind | A_i | source |
| --- | --- | --- |
| group_std | (r_i − mean(r)) / (s(r) + eps), s with n − 1 | GRPO, https://arxiv.org/abs/2402.03300 eq. 3 ff. |
| group_std_population | the same, s with n | the other reading of the paper's std(r) |
| group_mean | r_i − mean(r) | Dr. GRPO, https://arxiv.org/abs/2503.20783 |
| leave_one_out | r_i − mean of the other rewards | RLOO, https://arxiv.org/abs/2402.14740 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.config.choices import Advantage, names

ADVANTAGES = names(Advantage)


def is_effective(rewards: Sequence[float]) -> bool:
    """Whether a group carries a gradient: an effective query is one whose rewards are not all equal."""
    return max(rewards) != min(rewards)


def advantages(rewards: Sequence[float], cfg: GrpoConfig) -> list[float]:
    """Advantages of one group.

    Args:
        rewards: n finite rewards, n >= 2.
        cfg: its `advantage`, one of `ADVANTAGES`, and `advantage_eps`, which is added to the standard deviation.

    Returns:
        n floats; they sum to zero up to rounding, and are exact zeros where all rewards are equal.

    Raises:
        ValueError: unknown kind, fewer than two rewards, or a reward that is not finite.
    """
    kind = cfg.advantage
    if kind not in ADVANTAGES:
        raise ValueError(f"grpo.advantage: found {kind!r}, expected one of {', '.join(ADVANTAGES)}")
    n = len(rewards)
    if n < 2:
        raise ValueError(
            f"grpo.samples_per_question: a group of {n} has no baseline to compare with; expected at least 2"
        )
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards of a group must be finite, found {list(rewards)}; a failed score is not a reward")
    if not is_effective(rewards):
        return [0.0] * n

    mean = math.fsum(rewards) / n
    centred = [reward - mean for reward in rewards]
    if kind == "group_mean":
        return centred
    if kind == "leave_one_out":  # r_i − (n·mean − r_i) / (n − 1), rearranged
        return [difference * n / (n - 1) for difference in centred]
    count = n if kind == "group_std_population" else n - 1
    std = math.sqrt(math.fsum(difference**2 for difference in centred) / count)
    return [difference / (std + cfg.advantage_eps) for difference in centred]
