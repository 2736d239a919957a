"""Paired intervals by exact enumeration, Holm's correction by the closed tests that it shortens."""

from __future__ import annotations

from itertools import combinations
from math import factorial, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from alphamed_nemo.evaluation.paired import holm, paired_difference


def scores(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[float], list[float]]:
    first = [1.0] * (both + only_first) + [0.0] * (only_second + neither)
    second = [1.0] * both + [0.0] * only_first + [1.0] * only_second + [0.0] * neither
    return first, second


def by_the_book(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Newcombe's method 10 from the table of pairs, with scipy's Wilson intervals, in float64."""
    n = both + only_first + only_second + neither
    one, two = np.float64(both + only_first) / n, np.float64(both + only_second) / n
    intervals = [binomtest(k, n).proportion_ci(method="wilson") for k in (both + only_first, both + only_second)]
    (low_1, high_1), (low_2, high_2) = [(interval.low, interval.high) for interval in intervals]
    cross = both * neither - only_first * only_second
    corrected = cross - n / 2 if cross > n / 2 else 0 if cross >= 0 else cross
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    phi = corrected / sqrt(margins) if margins else 0.0
    down, up = (two - low_2, high_1 - one), (high_2 - two, one - low_1)
    low, high = (sqrt(max(0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return two - one - low, two - one + high


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_the_interval_is_newcombes(cells):
    found = paired_difference(*scores(*cells))
    low, high = by_the_book(*cells)
    assert (found.low, found.high) == pytest.approx((max(-1, low), min(1, high)), abs=1e-12)
    assert found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12
    turned = paired_difference(*reversed(scores(*cells)))
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low), abs=1e-12)


def test_a_published_case():
    """Newcombe 1998, table III, first example: 36, 12, 2 and 0 of 50; his method 10 gives 0.0569 to 0.3404."""
    found = paired_difference(*scores(36, 2, 12, 0))
    assert (round(found.value, 2), round(found.low, 4), round(found.high, 4)) == (0.2, 0.0569, 0.3404)


@pytest.mark.parametrize("chances", [(0.6, 0.1, 0.1, 0.2), (0.3, 0.05, 0.3, 0.35), (0.85, 0.05, 0.1, 0.0)])
def test_the_interval_holds_the_truth_in_about_95_of_100_samples(chances):
    """Over all tables of 24 questions, each with its probability."""
    n, covered = 24, 0.0
    truth = chances[2] - chances[1]
    for both in range(n + 1):
        for first in range(n + 1 - both):
            for second in range(n + 1 - both - first):
                cells = (both, first, second, n - both - first - second)
                ways = factorial(n)
                probability = 1.0
                for count, chance in zip(cells, chances, strict=True):
                    ways //= factorial(count)
                    probability *= chance**count
                if probability == 0:
                    continue
                found = paired_difference(*scores(*cells))
                covered += ways * probability * (found.low <= truth <= found.high)
    assert 0.93 < covered < 0.995


def test_shares_of_several_samples_count_as_they_are():
    found = paired_difference([0.25, 0.5, 1.0, 0.0], [0.5, 0.5, 1.0, 0.25])
    assert found.value == pytest.approx(0.125) and found.low < 0 < found.high
    same = paired_difference([1.0] * 20, [1.0] * 20)
    assert same.value == 0 and same.low < 0 < same.high  # no discordant pair is not the same as no difference
    with pytest.raises(ValueError, match="same questions"):
        paired_difference([1.0], [])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferronis(values):
    """Adjusted value of i: the largest Bonferroni p of any set of hypotheses that i belongs to."""
    places = range(len(values))
    sets = [chosen for size in range(1, len(values) + 1) for chosen in combinations(places, size)]
    expected = [
        max(min(1.0, len(chosen) * min(values[j] for j in chosen)) for chosen in sets if i in chosen) for i in places
    ]
    assert holm(values) == pytest.approx(expected, abs=1e-12)
