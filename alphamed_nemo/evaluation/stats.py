"""Statistics of graded answers: intervals, paired tests, aggregates of several samples. Pure Python, exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

Z_95 = 1.959963984540054  # 97.5% point of the normal distribution


def wilson(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22, 1927, p. 209); 95% by default.

    Args:
        successes: 0..n; fractional where each of the n questions counts the mean of several samples. The samples of a
            question are not independent, so n stays the number of questions and the interval is then conservative.
        n: questions, all of them, answered or not.

    Raises:
        ValueError: n < 1, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} successes of {n}; expected 0 <= successes <= n, n >= 1")
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    # At 0 and n the formula gives exactly 0 and 1, which rounding would miss.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


@dataclass(frozen=True)
class McNemar:
    """Paired comparison of two sets of answers to the same questions.

    Attributes:
        only_first: questions that only the first answered correctly.
        only_second: questions that only the second answered correctly.
        p: two-sided exact p-value of "both are equally often right".
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test in its exact form: the discordant questions are Binomial(only_first + only_second, 1/2).

    Args:
        first, second: correct or not, question by question in the same order.

    Raises:
        ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"mcnemar: {len(first)} and {len(second)} answers; expected the same questions in both")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    term, tail = 1, 0  # comb(n, k), summed as integers: exact for any n
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))  # integers divide exactly rounded, at any size


def average_at_n(correct: Sequence[Sequence[bool]]) -> float:
    """avg@n: the mean over questions of the share of their samples that are correct.

    Raises:
        ValueError: there is no question, or one without samples.
    """
    if not correct or any(not samples for samples in correct):
        raise ValueError("avg@n: expected at least one question, and at least one sample of each")
    return sum(sum(samples) / len(samples) for samples in correct) / len(correct)


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer given most often; unanswered samples have no vote, and of equals the one given first wins.

    None where no sample states an answer.
    """
    if len(answers) == 1:
        return answers[0]
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=votes.__getitem__) if votes else None  # a Counter keeps the order of first occurrence


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that at least one of k samples is right, unbiased from `samples` ≥ k (arXiv 2107.03374, eq. 1)."""
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@k: {correct} correct of {samples} samples, k = {k}; expected 1 <= k <= samples")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)
