"""What is asked of the rollout servers: how prompts are sampled, and how they are split into requests."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SEQUENCES_A_REQUEST = 16


@dataclass(frozen=True)
class Sampling:
    """How each prompt is sampled.

    Attributes:
        n: samples of each prompt.
        temperature: 0 is greedy.
        top_p: 1 samples from the whole distribution.
        max_new_tokens: limit of a response, its end-of-sequence token included.
        stop: texts that end a response and are left out of its text; its tokens hold them.

    Raises:
        ValueError: a value cannot work.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 2048
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1:
            raise ValueError(f"n and max_new_tokens: found {self.n} and {self.max_new_tokens}, expected at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature {self.temperature} and top_p {self.top_p}: expected temperature >= 0 and 0 < top_p <= 1"
            )
        if not all(self.stop):
            raise ValueError("stop: found an empty text, expected at least one character in each")


@dataclass(frozen=True)
class Request:
    """Prompts that travel together; `first` is the index of the first of them in the caller's list."""

    first: int
    prompts: list[list[int]]
    seed: int | None


def seeds_of(seed: int, names: Iterable[str]) -> list[int]:
    """A seed for each name, from a range so wide that the spans of `seed + sample` of two names do not meet."""
    return [int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2 for name in names]


def split(prompts: list[list[int]], n: int, seed: int | Sequence[int] | None) -> list[Request]:
    """Requests of SEQUENCES_A_REQUEST sequences (fewer, larger requests cost less), or of one prompt where seeded.

    vLLM gives every prompt of a request the same seed, and sample i of each the seed + i: prompts would share their
    noise. So a seeded prompt travels alone, with a seed drawn from a range so wide that these spans do not meet. It
    depends on the prompt's place in the list, and not on who samples it.

    Raises:
        ValueError: a prompt is empty.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("prompts: found an empty one, expected at least one token id in each")
    if isinstance(seed, int):
        stream = random.Random(seed)
        seed = [stream.getrandbits(62) for _ in prompts]
    if seed is not None:
        return [Request(i, [prompt], own) for i, (prompt, own) in enumerate(zip(prompts, seed, strict=True))]
    size = max(1, SEQUENCES_A_REQUEST // n)
    return [Request(first, prompts[first : first + size], None) for first in range(0, len(prompts), size)]
