"""A simulated run against what is known in closed form, and what no run may break."""

from __future__ import annotations

import dataclasses
import math
import random
from statistics import fmean, stdev

import pytest

from alphamed_nemo.simulate.batches import StepTime
from alphamed_nemo.simulate.goodput import Estimate, estimate, goodput
from alphamed_nemo.simulate.scenario import Scenario
from alphamed_nemo.simulate.simulated_run import LOST, QUEUE, SERVERS, Event, Outcome, simulate_run, slowest_of

STEP = StepTime({"generation": 6.0, "training": 3.0, "other": 1.0}, 6.0, 800.0)
QUIET = Scenario([STEP], steps=40, save_every=10, gpus=8, nodes=1, servers=1, save=5.0, load=4.0, start=30.0)


def expected_seconds(scenario: Scenario) -> float:
    """With exponential failures, which may strike starts, too, and a job that waits `detect` after each.

    Daly (A higher order estimate of the optimum checkpoint interval, 2006, equation 20) with a wait in which nothing
    fails: for rate r, work w between saves, and restart R, a segment takes (exp(r (w + save)) − 1) exp(r R) (1/r +
    wait).
    """
    rate, wait = 1 / scenario.fatal, scenario.detect
    work = scenario.save_every * STEP.seconds + scenario.save
    segments = scenario.steps / scenario.save_every
    first = math.expm1(rate * scenario.start) * (1 / rate + wait)
    # The first segment is begun again without a checkpoint to load.
    restarts = [scenario.start, *[scenario.start + scenario.load] * (round(segments) - 1)]
    again = sum(math.expm1(rate * work) * math.exp(rate * restart) * (1 / rate + wait) for restart in restarts)
    return first + again


def test_a_run_in_which_nothing_fails_takes_the_sum_of_its_parts() -> None:
    outcome = simulate_run(QUIET, seed=1)
    assert outcome.seconds == pytest.approx(30 + 40 * 10 + 4 * 5)
    assert outcome.tokens == 40 * 800
    assert outcome.spent["generation"] == pytest.approx(240)


@pytest.mark.parametrize("mean", [100.0, 400.0, 3000.0])
def test_failures_cost_what_the_closed_form_says(mean: float) -> None:
    scenario = dataclasses.replace(QUIET, fatal=mean, detect=7.0)
    seconds = [simulate_run(scenario, seed).seconds for seed in range(200)]
    error = stdev(seconds) / math.sqrt(len(seconds))
    assert abs(fmean(seconds) - expected_seconds(scenario)) < 4 * error
    assert error < 0.1 * fmean(seconds)


def test_the_best_interval_is_about_youngs() -> None:
    """Young (1974): sqrt(2 × save × mean time between failures), here 10 steps."""
    scenario = dataclasses.replace(QUIET, steps=400, fatal=1000.0, save=5.0, start=0.0, load=0.0)
    assert math.sqrt(2 * scenario.save * scenario.fatal) / STEP.seconds == pytest.approx(10)
    speeds = {
        every: goodput(dataclasses.replace(scenario, save_every=every), runs=16, seed=1).tokens.mean
        for every in (1, 10, 100)
    }
    assert max(speeds, key=lambda every: speeds[every]) == 10


EVENTFUL = dataclasses.replace(
    QUIET, steps=200, nodes=4, servers=4, straggler=0.05, fatal=900.0, server_loss=300.0, preemption=700.0,
    limit=1000.0, notice=40.0, detect=20.0, requeue=50.0, server_start=25.0,
)  # fmt: skip


@pytest.mark.parametrize("servers", [1, 4])
def test_all_causes_together_are_the_time_that_has_passed(servers: int) -> None:
    happened: set[Event] = set()
    for seed in range(20):
        outcome = simulate_run(dataclasses.replace(EVENTFUL, servers=servers), seed)
        assert sum(outcome.spent.values()) == pytest.approx(outcome.seconds)
        assert min(outcome.spent.values()) >= 0
        assert outcome.tokens == pytest.approx(200 * 800)  # each step once
        assert outcome.spent["generation"] == pytest.approx(200 * 6)
        happened |= outcome.events.keys()
    assert happened == set(Event)


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    assert simulate_run(EVENTFUL, 3) == simulate_run(EVENTFUL, 3)
    assert simulate_run(EVENTFUL, 3) != simulate_run(EVENTFUL, 4)


def test_a_lone_server_stops_sampling_and_others_take_over() -> None:
    lossy = dataclasses.replace(QUIET, steps=2000, server_loss=200.0, server_start=25.0)
    alone = simulate_run(lossy, 1).spent[SERVERS] / simulate_run(lossy, 1).events[Event.SERVER]
    # A loss while sampling costs the start and what had been sampled, later ones what is left of the start.
    assert 25 - 4 < alone < 25 + 6
    shared = simulate_run(dataclasses.replace(lossy, servers=4), 1)
    # Each loss makes the step 6/3 s longer, and those that begin before the server is back.
    assert 2.0 < shared.spent[SERVERS] / shared.events[Event.SERVER] < 4 * 2.0
    assert LOST not in shared.spent


def test_a_time_limit_costs_a_save_a_wait_and_a_start() -> None:
    limited = dataclasses.replace(QUIET, steps=400, save_every=400, limit=1000.0, notice=40.0, requeue=0.0)
    outcome = simulate_run(limited, 1)
    # An attempt has 960 s before it begins to stop: 93 steps in the first, as many with 4 s of loading.
    assert outcome.seconds == pytest.approx(400 * 10 + 5 * (30 + 5) + 4 * 4)
    assert QUEUE in outcome.spent and LOST not in outcome.spent


def test_the_slowest_of_many_has_the_mean_of_the_largest() -> None:
    draw = random.Random(1)
    for nodes in (1, 4, 128):
        values = [slowest_of(nodes, draw) for _ in range(20_000)]
        expected = sum(1 / node for node in range(1, nodes + 1))
        assert fmean(values) == pytest.approx(expected, abs=4 * stdev(values) / math.sqrt(len(values)))


def test_stragglers_are_in_the_mean_step() -> None:
    scenario = dataclasses.replace(QUIET, steps=20_000, save_every=20_000, nodes=4, straggler=0.05, start=0.0, save=0.0)
    assert simulate_run(scenario, 1).seconds / 20_000 == pytest.approx(scenario.mean_step, rel=0.005)


def test_an_interval_is_students() -> None:
    outcomes = [Outcome(value, 0.0, {}, {}) for value in (10.0, 12.0, 11.0, 13.0)]
    found = estimate(outcomes, lambda outcome: outcome.seconds)
    half = 3.182 * 1.2910 / 2  # t with 3 degrees of freedom × standard deviation / sqrt(4)
    assert dataclasses.astuple(found) == pytest.approx((11.5, 11.5 - half, 11.5 + half, 10.15, 12.85), rel=1e-3)
    assert isinstance(found, Estimate)
