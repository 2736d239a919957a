"""What a cluster's owner asks: how often to save, where rollouts belong, and what another node would bring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alphamed_nemo.config import Config
from alphamed_nemo.plan.changes import Change, apply
from alphamed_nemo.plan.hardware import cluster_of
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.plan.search import fastest, present
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.simulate.goodput import DAY, Goodput, goodput
from alphamed_nemo.simulate.scenario import NEVER, Scenario, make_scenario

INTERVALS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps between saves that are tried
CURVE = (8, 16, 32, 64, 128, 256, 512, 1024)  # GPUs


@dataclass(frozen=True)
class Case:
    """A variant and what came of it."""

    name: str
    change: Change
    plan: Plan
    found: Goodput


@dataclass(frozen=True)
class Point:
    """Of a curve: the fastest layout on so many GPUs, without failures and with them."""

    plan: Plan
    quiet: Goodput
    struck: Goodput


def simulated(plan: Plan, lengths: Sequence[int] | None) -> Goodput:
    simulate = plan.cfg.simulate
    return goodput(make_scenario(plan, lengths), simulate.runs, plan.cfg.run.seed)


def save_intervals(scenario: Scenario, runs: int, seed: int) -> dict[int, Goodput]:
    """Steps between two saves → what comes of it, with the same failures for each."""
    tried = sorted({*(every for every in INTERVALS if every < scenario.steps), scenario.save_every, scenario.steps})
    return {every: goodput(replace(scenario, save_every=every), runs, seed) for every in tried}


def youngs_interval(scenario: Scenario) -> float:
    """Steps between saves by Young's formula, sqrt(2 × save × mean time between failures); infinite where none are.

    Source: J. W. Young, A first order approximation to the optimum checkpoint interval, 1974.
    """
    if scenario.fatal == NEVER:
        return math.inf
    return math.sqrt(2 * scenario.save * scenario.fatal) / scenario.mean_step


def best_interval(found: dict[int, Goodput]) -> int:
    return max(found, key=lambda every: found[every].tokens.mean)


def placements(plan: Plan, lengths: Sequence[int] | None) -> list[Case]:
    """Rollouts on all GPUs or on nodes of their own, on-policy or one step off, with the settings' own division of the
    model; the best first. The settings as they are are always among them."""
    cases = []
    for name, change in _placements(plan):
        planned = plan if not change else _planned(plan, change)
        if planned is not None:
            cases.append(Case(name, change, planned, simulated(planned, lengths)))
    return sorted(cases, key=lambda case: -case.found.tokens.mean)


def _placements(plan: Plan) -> Iterator[tuple[str, Change]]:
    cfg = plan.cfg
    now = (cfg.rollout.placement, 0 if plan.cluster.shared else cfg.rollout.servers, cfg.grpo.staleness)
    wanted = [("colocated", 0, 0)]
    nodes = plan.cluster.nodes
    servers = sorted({max(1, nodes // 4), max(1, nodes // 2), max(1, nodes * 3 // 4)})
    wanted += [("separate", count, stale) for count in servers for stale in (0, 1) if count < nodes]
    for placement, count, stale in dict.fromkeys([now, *wanted]):
        words = "all GPUs take turns" if placement == "colocated" else f"{count} of {nodes} nodes sample"
        words += ", one step off-policy" if stale else ""
        change: Change = {"rollout.placement": placement, "rollout.servers": count or 1, "grpo.staleness": stale}
        yield words, {} if (placement, count, stale) == now else change


def one_more_node(plan: Plan, lengths: Sequence[int] | None) -> Case | None:
    """With the same division of the model; None where it cannot use another node."""
    planned = _planned(plan, {}, gpus=plan.cluster.gpus + plan.cfg.plan.gpus_per_node)
    return None if planned is None else Case("one more node", {}, planned, simulated(planned, lengths))


def _planned(plan: Plan, change: Change, gpus: int | None = None) -> Plan | None:
    """With a change, on all of the GPUs; None where that does not exist or does not fit."""
    try:
        changed = make_plan(present(apply(plan.cfg, change), gpus or plan.cluster.gpus), plan.model)
    except ValueError:
        return None
    return changed if changed.fits else None


def curve(cfg: Config, model: Model, lengths: Sequence[int] | None, sizes: Sequence[int] = CURVE) -> list[Point]:
    """The fastest layout on each number of GPUs, in a run of `simulate.curve_days` without failures, which saves as
    often as Young's formula says. With `simulate.curve_grows` every GPU has as much to do as on the settings' own."""
    points = []
    own = cluster_of(apply(cfg, {"plan.gpus": 0})).gpus
    for gpus in sizes:
        change: Change = {"plan.gpus": 0}
        if cfg.simulate.curve_grows:
            change["grpo.questions_per_step"] = max(1, cfg.grpo.questions_per_step * gpus // own)
        plan = fastest(apply(cfg, change), model, gpus)
        if plan is not None:
            points.append(_point(plan, lengths))
    return points


def _point(plan: Plan, lengths: Sequence[int] | None) -> Point:
    simulate, seed = plan.cfg.simulate, plan.cfg.run.seed
    found = []
    for failures, runs in ((False, 2), (True, simulate.runs)):
        scenario = make_scenario(plan, lengths, failures)
        steps = max(1, round(simulate.curve_days * DAY / scenario.mean_step))
        every = min(steps, round(youngs_interval(make_scenario(plan, lengths))))
        found.append(goodput(replace(scenario, steps=steps, save_every=max(1, every)), runs, seed))
    return Point(plan, *found)
