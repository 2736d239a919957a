"""What many simulated runs say together: goodput and days with their intervals, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from alphamed_nemo.simulate.scenario import Scenario
from alphamed_nemo.simulate.simulated_run import Event, Outcome, simulate_run

DAY = 86_400.0

# Two-sided 95% of Student's t by degrees of freedom; from 30 on it is 2.04 and less.
STUDENT = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, its 95% interval, and the range in which nine of ten single runs are."""

    mean: float
    low: float
    high: float
    unlucky: float
    lucky: float


@dataclass(frozen=True)
class Goodput:
    """Of all simulated runs of one scenario.

    Attributes:
        tokens: trained per second and GPU, steps done again not counted twice.
        days: until the last step is saved.
        shares: cause → share of the time of all runs, largest first.
        events: kind → how often in a run, on average.
    """

    scenario: Scenario
    tokens: Estimate
    days: Estimate
    shares: dict[str, float]
    events: dict[Event, float]


def goodput(scenario: Scenario, runs: int, seed: int) -> Goodput:
    """Simulates so many runs, each with a seed of its own, which is the same for every scenario."""
    outcomes = [simulate_run(scenario, seed + number) for number in range(runs)]
    causes = {cause: sum(outcome.spent.get(cause, 0.0) for outcome in outcomes) for cause in _causes(outcomes)}
    whole = sum(outcome.seconds for outcome in outcomes)
    shares = sorted(causes.items(), key=lambda item: -item[1])
    return Goodput(
        scenario,
        estimate(outcomes, lambda outcome: outcome.tokens / outcome.seconds / scenario.gpus),
        estimate(outcomes, lambda outcome: outcome.seconds / DAY),
        {cause: seconds / whole for cause, seconds in shares if seconds > 0},
        {event: fmean(outcome.events.get(event, 0) for outcome in outcomes) for event in Event},
    )


def estimate(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> Estimate:
    """Of two runs or more. The interval is Student's."""
    values = sorted(map(value, outcomes))
    freedom = len(values) - 1
    half = (STUDENT[freedom - 1] if freedom <= len(STUDENT) else 2.04) * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    return Estimate(mean, mean - half, mean + half, _quantile(values, 0.05), _quantile(values, 0.95))


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Linear between the two nearest values."""
    place = share * (len(ascending) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (place - below) * (ascending[above] - ascending[below])


def _causes(outcomes: Sequence[Outcome]) -> set[str]:
    return {cause for outcome in outcomes for cause in outcome.spent}
