"""The page of a simulation: what to expect, where the time goes, and what would be better. Offline, as the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alphamed_nemo.plan.bottleneck import limited_by
from alphamed_nemo.plan.prediction import Plan
from alphamed_nemo.plan.text import counted, layout_text
from alphamed_nemo.report.figures import Figure
from alphamed_nemo.report.html import Tile, write_page
from alphamed_nemo.report.scale import number, padded_range, percent
from alphamed_nemo.report.svg import Series, intervals, line_chart
from alphamed_nemo.simulate.answers import Case, Point, best_interval
from alphamed_nemo.simulate.goodput import Estimate, Goodput
from alphamed_nemo.simulate.scenario import NEVER

PHASES = ("generation", "reward", "old_logprobs", "training", "refit", "sleep and wake", "other")
LEAST = 0.0005  # share of the time from which a cause is shown


@dataclass(frozen=True)
class Simulation:
    """Everything that the page shows; what was not asked for is empty."""

    plan: Plan
    lengths: str
    found: Goodput
    saves: dict[int, Goodput] = field(default_factory=dict)
    young: float = NEVER
    placements: Sequence[Case] = ()
    more: Case | None = None
    points: Sequence[Point] = ()


def write_simulation(simulation: Simulation, path: Path) -> Path:
    """Writes the page and returns its path."""
    return write_page(
        path,
        "simulation.html",
        title=f"Simulation of {simulation.plan.model.name}",
        headline=headline(simulation),
        tiles=tiles(simulation),
        time=time_by_cause(simulation.found),
        saves=saves_figure(simulation),
        placements=placement_rows(simulation),
        curve=curve_figure(simulation.points),
        points=point_rows(simulation.points),
        assumptions=[*simulation.plan.cfg.simulate.assumptions(), *simulation.plan.cfg.plan.assumptions()],
        lengths=simulation.lengths,
    )


def headline(simulation: Simulation) -> str:
    plan, found = simulation.plan, simulation.found
    return (
        f"{found.scenario.steps:,} steps on {counted(plan.cluster.nodes, 'node')} "
        f"({plan.cluster.gpus} × {plan.cfg.plan.gpu}, {layout_text(plan)}) take {days_text(found.days)}, simulated."
    )


def tiles(simulation: Simulation) -> list[Tile]:
    found, plan = simulation.found, simulation.plan
    lost = 1 - sum(share for cause, share in found.shares.items() if cause in PHASES)
    failures = sum(found.events.values())
    return [
        Tile("Goodput", f"{found.tokens.mean:,.0f}", f"trained tokens/s/GPU; 95% interval {_interval(found.tokens)}"),
        Tile(
            "Time", days_text(found.days), f"nine of ten runs: {_days(found.days.unlucky)} to {_days(found.days.lucky)}"
        ),
        Tile("One quiet step", f"{plan.tokens_per_s_per_gpu:,.0f}", f"tokens/s/GPU by the plan; {plan.step:.1f} s"),
        Tile("Not spent on steps", percent(lost), f"{number(failures)} failures in a run, on average"),
    ]


def days_text(days: Estimate) -> str:
    return _days(days.mean)


def _days(days: float) -> str:
    return f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} h"


def _interval(found: Estimate) -> str:
    return f"{found.low:,.0f} to {found.high:,.0f}"


def time_by_cause(found: Goodput) -> Figure:
    """Phases of steps that counted in one colour, and everything else in another."""
    shown = {cause: share for cause, share in found.shares.items() if share >= LEAST}
    colours = [1 if cause in PHASES else 2 for cause in shown]
    chart = intervals(list(shown), list(shown.values()), [None] * len(shown), colours, "Share of time by cause")
    note = "Share of the time of all simulated runs, waiting in the queue included."
    return Figure("Where the time goes", note, chart, [("phases of a step", 1), ("everything else", 2)])


def saves_figure(simulation: Simulation) -> Figure | None:
    """Goodput against the steps between saves."""
    found, scenario = simulation.saves, simulation.found.scenario
    if not found:
        return None
    names = {float(place): f"{every}" for place, every in enumerate(found)}
    speeds = [each.tokens for each in found.values()]
    ends = [end for speed in speeds for end in (speed.low, speed.high)]
    chart = line_chart(
        [Series("goodput", list(names), [speed.mean for speed in speeds])],
        "Goodput by steps between saves",
        y_range=padded_range(ends),
        x_label="steps between saves",
        points=True,
        bounds=[(speed.low, speed.high) for speed in speeds],
        names=names,
    )
    best, now = best_interval(found), scenario.save_every
    gain = found[best].tokens.mean / found[now].tokens.mean - 1
    note = f"Trained tokens/s/GPU, with 95% intervals. Best of these: {best}; now: {now}"
    note += f", {gain:.1%} less." if best != now else "."
    if simulation.young < NEVER:
        note += f" Young's formula: {number(simulation.young)}."
    return Figure("grpo.save_every", note, chart, [])


def placement_rows(simulation: Simulation) -> list[tuple[str, ...]]:
    """Name, change, step, goodput with its interval, time, what limits it; the last row is one more node."""
    rows = [_case_row(case.name, case.plan, case.found) for case in simulation.placements]
    if not rows:
        return []
    more = simulation.more
    if more is None:
        return [*rows, ("one more node", *["–"] * 5, "this division of model and batch cannot use it")]
    return [*rows, _case_row(more.name, more.plan, more.found)]


def _case_row(name: str, plan: Plan, found: Goodput) -> tuple[str, ...]:
    return (
        name,
        str(plan.cluster.gpus),
        f"{found.scenario.mean_step:.1f} s",
        f"{found.tokens.mean:,.0f}",
        _interval(found.tokens),
        days_text(found.days),
        limited_by(plan),
    )


def curve_figure(points: Sequence[Point]) -> Figure | None:
    """Goodput on more and more GPUs, with failures and without."""
    if not points:
        return None
    names = {float(place): f"{point.plan.cluster.gpus}" for place, point in enumerate(points)}
    struck = [point.struck.tokens for point in points]
    series = [
        Series("with failures", list(names), [speed.mean for speed in struck], 2),
        Series("without", list(names), [point.quiet.tokens.mean for point in points], 1),
    ]
    top = 1.08 * max(max(line.y) for line in series)
    chart = line_chart(
        series,
        "Goodput by GPUs",
        y_range=(0, top),
        x_label="GPUs",
        points=True,
        bounds=[(speed.low, speed.high) for speed in struck],
        names=names,
    )
    note = (
        "Trained tokens/s/GPU of the fastest layout on each number of GPUs, saved as often as Young's formula says. "
        + _batches(points)
        + " Whiskers are 95% intervals."
    )
    return Figure("From 8 to 1,024 GPUs", note, chart, [(line.name, line.colour) for line in series])


def _batches(points: Sequence[Point]) -> str:
    first, last = (point.plan.cfg.grpo.questions_per_step for point in (points[0], points[-1]))
    if first == last:
        return "The batch is the same, so more GPUs have less to do in each step."
    return f"The batch grows with the GPUs, from {first:,} to {last:,} questions."


def point_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """GPUs, layout, step, goodput without failures and with them, share of it that is left, failures per day."""
    rows = []
    for point in points:
        parallel, engine = point.plan.cfg.parallel, point.plan.engine
        quiet, struck = point.quiet.tokens.mean, point.struck.tokens.mean
        rows.append(
            (
                f"{point.plan.cluster.gpus:,}",
                f"{parallel.tensor} × {parallel.pipeline} × {parallel.data}; {engine.engines} × {engine.tensor}",
                f"{point.struck.scenario.mean_step:.1f} s",
                f"{quiet:,.0f}",
                f"{struck:,.0f}",
                percent(struck / quiet),
                number(sum(point.struck.events.values()) / point.struck.days.mean),
            )
        )
    return rows
