"""How long the responses of a step are: a distribution with the mean that is assumed, cut off where vLLM cuts it.

Exponential: the end of the sequence comes at any token with the same probability. The long tail is what makes the last
responses of a batch expensive, so a fixed length would flatter every plan.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, eq=False)  # two batches are never compared; their names are keys of caches
class Workload:
    """One step's batch.

    Attributes:
        prompt: tokens, the same for all.
        responses: tokens of each sample, in random order.
        group: samples of one question.
    """

    prompt: float
    responses: list[int]
    group: int

    @property
    def samples(self) -> int:
        return len(self.responses)

    @cached_property
    def tokens(self) -> float:
        """Prompts and responses."""
        return self.samples * self.prompt + sum(self.responses)

    @cached_property
    def half_grown(self) -> float:
        """Tokens that a response which is being sampled has, on average over all moments."""
        return sum(response * response for response in self.responses) / (2 * sum(self.responses))

    @cached_property
    def response_share(self) -> float:
        return sum(self.responses) / self.tokens

    @cached_property
    def lengths(self) -> list[int]:
        return [round(self.prompt) + response for response in self.responses]

    @cached_property
    def attended(self) -> float:
        """Earlier tokens that a token attends to, on average."""
        return sum(length * length for length in self.lengths) / (2 * sum(self.lengths))


def make_workload(samples: int, group: int, prompt: float, mean: float, longest: int) -> Workload:
    """A batch whose responses have this mean and none more than `longest` tokens.

    Raises:
        ValueError: the mean and the limit contradict each other.
    """
    if not 0 < mean < longest:
        raise ValueError(
            f"plan.response_tokens: found a mean of {mean:g}, but a response has at most {longest} tokens "
            "(model.max_length, rollout.max_new_tokens)"
        )
    scale = _scale(mean, longest)
    quantiles = ((i + 0.5) / samples for i in range(samples))
    responses = [max(1, min(longest, round(-scale * math.log1p(-q)))) for q in quantiles]
    random.Random(0).shuffle(responses)
    return Workload(prompt, responses, group)


def _scale(mean: float, longest: int) -> float:
    """Mean of the exponential distribution that has the mean `mean` once it is cut at `longest`."""
    low, high = mean, 1e6 * longest
    for _ in range(200):
        middle = math.sqrt(low * high)
        if middle * -math.expm1(-longest / middle) < mean:
            low = middle
        else:
            high = middle
    return low
