"""Differences between results on the same questions: an interval, and p-values of many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from alphamed_nemo.evaluation.stats import wilson


@dataclass(frozen=True)
class Difference:
    """How much the second of two results is better, 0..1, with its 95% interval."""

    value: float
    low: float
    high: float


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of `second` less mean of `first`, with Newcombe's interval for paired proportions (Stat. Med. 17, 1998,
    p. 2635, method 10): Wilson's intervals of both, combined by the correlation of the pairs.

    It holds where normal intervals do not: with few questions, few discordant pairs, or all answers right.

    Args:
        first, second: question by question, 0 or 1; the share of right samples where there are several. Shares vary
            less than single answers, so that the interval is then conservative.

    Raises:
        ValueError: the lengths differ, or there is no question.
    """
    n = len(first)
    if n == 0 or len(second) != n:
        raise ValueError(f"paired difference of {n} and {len(second)} scores; expected the same questions in both")
    right_first, right_second = sum(first), sum(second)
    difference = (right_second - right_first) / n
    below_first, above_first = _arms(right_first, n)
    below_second, above_second = _arms(right_second, n)
    correlation = _correlation(first, second)
    low = difference - _combined(below_second, above_first, correlation)
    high = difference + _combined(above_second, below_first, correlation)
    return Difference(difference, max(-1.0, low), min(1.0, high))


def _arms(right: float, n: int) -> tuple[float, float]:
    """How far Wilson's interval reaches below and above a share."""
    low, high = wilson(min(right, n), n)
    return right / n - low, high - right / n


def _combined(one: float, other: float, correlation: float) -> float:
    return sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """φ of the table of pairs, corrected for continuity where it is positive; 0 where one side is constant."""
    n, right_first, right_second = len(first), sum(first), sum(second)
    both = sum(a * b for a, b in zip(first, second, strict=True))
    spread = right_first * (n - right_first) * right_second * (n - right_second)
    if spread <= 0:
        return 0.0
    cross = n * both - right_first * right_second  # both right × both wrong − only one × only the other
    if cross > 0:
        cross = max(0.0, cross - n / 2)
    return cross / sqrt(spread)


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, Scand. J. Statist. 6, 1979, p. 65), in the order given.

    Comparing one adjusted value with 0.05 keeps the chance of any false finding among all of them below 5 %.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
