"""What a simulation takes from the plan, and what it answers."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from statistics import fmean

import pyarrow
import pyarrow.parquet
import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.plan.changes import apply
from alphamed_nemo.plan.generation import decode_speed, prefill_seconds
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.simulate import answers
from alphamed_nemo.simulate.batches import draw_steps, kept_lengths, planned_step, sampling_seconds
from alphamed_nemo.simulate.scenario import HOUR, make_scenario
from alphamed_nemo.simulate.simulated_run import simulate_run
from alphamed_nemo.simulate.simulation_page import Simulation, placement_rows, write_simulation
from tests.unit.test_plan_step import experiment

FEW = ("simulate.runs=3", "simulate.batches=4", "grpo.steps=60", "plan.gpu=h100")


@pytest.fixture(scope="module")
def cfg() -> Config:
    return experiment("grpo_8b", *FEW, "parallel.data=8")


@pytest.fixture(scope="module")
def plan(cfg: Config) -> Plan:
    return make_plan(cfg)


def test_a_run_without_failures_takes_the_plans_own_time(plan: Plan) -> None:
    scenario = make_scenario(plan, failures=False)
    quiet = dataclasses.replace(scenario, times=[planned_step(plan)], straggler=0.0)
    starts = quiet.start + 6 * quiet.save
    assert simulate_run(quiet, 1).seconds == pytest.approx(60 * plan.step + starts)
    assert quiet.mean_step == pytest.approx(plan.step)


def test_phases_side_by_side_take_the_plans_time_too(plan: Plan) -> None:
    change = {"rollout.placement": "separate", "rollout.servers": 1, "grpo.staleness": 1, "parallel.data": 4}
    stale = make_plan(apply(plan.cfg, change))
    assert planned_step(stale).seconds == pytest.approx(stale.step)
    assert "generation" not in planned_step(stale).parts or "training" not in planned_step(stale).parts


def test_drawn_batches_take_about_as_long_as_planned(plan: Plan) -> None:
    steps = draw_steps(plan, plan.load.responses, 20, random.Random(1))
    assert fmean(step.seconds for step in steps) == pytest.approx(plan.step, rel=0.1)
    assert len({step.seconds for step in steps}) == 20
    assert fmean(step.tokens for step in steps) == pytest.approx(plan.load.tokens, rel=0.02)


def test_responses_that_all_fit_take_the_sum_of_their_decoding_steps(plan: Plan) -> None:
    engines, share = plan.engine.engines, plan.load.samples // plan.engine.engines
    few = dataclasses.replace(plan, engine=dataclasses.replace(plan.engine, concurrent=share))
    speed = decode_speed(plan.cfg, plan.cluster, plan.model, plan.engine)
    token_by_token = sum(speed.step(share, share * (plan.load.prompt + done + 0.5)) for done in range(200))
    prompts = prefill_seconds(plan.cfg, plan.cluster, plan.model, plan.load, plan.engine, share)
    # Exact but for where a step passes from one bound, such as the shortest step, to another.
    assert sampling_seconds(few, [200] * (engines * share)) == pytest.approx(prompts + token_by_token, rel=0.02)
    narrow = dataclasses.replace(plan, engine=dataclasses.replace(plan.engine, concurrent=share // 2))
    assert sampling_seconds(narrow, [200] * (engines * share)) > prompts + token_by_token


def test_failures_add_up_over_the_cluster(plan: Plan) -> None:
    cfg = apply(
        plan.cfg, {"simulate.gpu_mtbf_h": 1600.0, "simulate.node_mtbf_h": 200.0, "simulate.server_mtbf_h": 40.0}
    )
    scenario = make_scenario(dataclasses.replace(plan, cfg=cfg))
    assert scenario.fatal == pytest.approx(HOUR / (16 / 1600 + 2 / 200))
    assert scenario.server_loss == pytest.approx(20 * HOUR)  # one server a node
    assert scenario.preemption == float("inf")


def test_a_notice_that_is_too_short_is_named(plan: Plan) -> None:
    short = apply(plan.cfg, {"simulate.notice_s": 10.0})
    with pytest.raises(ValueError, match="simulate.notice_s: found 10, but a step and a save take up to"):
        make_scenario(dataclasses.replace(plan, cfg=short))
    limit = apply(plan.cfg, {"simulate.time_limit_h": 0.2})
    with pytest.raises(ValueError, match="simulate.time_limit_h: found 0.2, too short"):
        make_scenario(dataclasses.replace(plan, cfg=limit))


def test_lengths_are_those_that_a_run_kept(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    for step, lengths in ((1, [3, 0]), (2, [5])):
        rows = {"prompt_ids": [[1] * 4 for _ in lengths], "response_ids": [[7] * length for length in lengths]}
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "rollouts" / f"step_{step}.parquet")
    assert kept_lengths(tmp_path) == (4.0, [3, 1, 5])
    with pytest.raises(ValueError, match="simulate.lengths: no rollouts/"):
        kept_lengths(tmp_path / "rollouts")


def test_the_page_has_every_answer_and_loads_nothing(plan: Plan, tmp_path: Path) -> None:
    found = answers.simulated(plan, None)
    saves = answers.save_intervals(found.scenario, 3, 1)
    assert set(saves) == {1, 2, 5, 10, 20, 50, 60}
    placements = answers.placements(plan, None)
    speeds = [case.found.tokens.mean for case in placements]
    assert speeds == sorted(speeds, reverse=True) and len(placements) == 3  # and one server, stale and not
    assert [case.plan.cluster.gpus for case in placements] == [16] * 3
    more = answers.one_more_node(plan, None)
    assert more is not None and more.plan.cluster.gpus == 24
    day = apply(plan.cfg, {"simulate.curve_days": 0.05, "simulate.runs": 2})
    points = answers.curve(day, plan.model, None, sizes=(16, 32))
    assert [point.plan.cluster.gpus for point in points] == [16, 32]
    grown = answers.curve(apply(day, {"simulate.curve_grows": True}), plan.model, None, sizes=(8, 32))
    assert [point.plan.cfg.grpo.questions_per_step for point in grown] == [128, 512]  # 256 on these settings' 16
    simulation = Simulation(plan, "exponential", found, saves, 7.0, placements, more, points)
    page = write_simulation(simulation, tmp_path / "page.html").read_text()
    assert page.count("<svg") == 3 and "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for words in ("grpo.save_every", "one more node", "all GPUs take turns", "gpu_mtbf_h", "1 of 2 nodes sample"):
        assert words in page


def test_a_node_that_cannot_be_used_has_its_row_and_the_reason(plan: Plan) -> None:
    found = answers.simulated(plan, None)
    alone = Simulation(plan, "exponential", found, placements=[answers.Case("now", {}, plan, found)], more=None)
    name, *numbers, reason = placement_rows(alone)[-1]
    assert (name, set(numbers), reason) == ("one more node", {"–"}, "this division of model and batch cannot use it")
    assert placement_rows(Simulation(plan, "exponential", found)) == []
