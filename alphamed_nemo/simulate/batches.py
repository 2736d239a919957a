"""Steps as they vary: batches of drawn response lengths, each sampled by the engines with continuous batching.

Between two responses that end nothing changes but the contexts, which grow evenly, so plan/generation.py sums from end
to end instead of simulating tokens: exact as long as the same bound holds (memory, products, or the shortest step). A
batch is one event of the simulation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from alphamed_nemo.config.run_folder import RunFolder, by_step
from alphamed_nemo.plan.generation import decode_seconds, decode_speed, prefill_seconds
from alphamed_nemo.plan.prediction import Plan

SAMPLED, TRAINED = ("generation", "reward"), ("old_logprobs", "training")


@dataclass(frozen=True)
class StepTime:
    """One step on the clock.

    Attributes:
        parts: phase → seconds; their sum is the step. Of two phases side by side the shorter is not there.
        sampling: seconds from the step's start in which the rollout servers sample.
        tokens: that it trains on, prompts included.
    """

    parts: dict[str, float]
    sampling: float
    tokens: float

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def paced(self) -> float:
        """Seconds in which all wait for the slowest node."""
        return sum(self.parts.get(name, 0.0) for name in (*SAMPLED, *TRAINED))


def planned_step(plan: Plan) -> StepTime:
    """The plan's own step."""
    return _on_the_clock(plan, plan.phases, plan.load.tokens)


def draw_steps(plan: Plan, lengths: Sequence[int], count: int, draw: random.Random) -> list[StepTime]:
    """Steps whose responses are drawn from `lengths`.

    A question's samples stay on one engine, and questions are dealt out in turn. What the trainer does grows with the
    batch's tokens; everything else is the plan's.

    Args:
        lengths: tokens of responses, such as those of a run.
        count: of steps.
    """
    return [_drawn_step(plan, draw.choices(lengths, k=plan.load.samples)) for _ in range(count)]


def _drawn_step(plan: Plan, responses: list[int]) -> StepTime:
    tokens = plan.load.samples * plan.load.prompt + sum(responses)
    phases = dict(plan.phases) | {"generation": sampling_seconds(plan, responses)}
    phases |= {name: plan.phases[name] * tokens / plan.load.tokens for name in TRAINED}
    return _on_the_clock(plan, phases, tokens)


def sampling_seconds(plan: Plan, responses: Sequence[int]) -> float:
    """Until the last of all engines is done with its questions."""
    group, engines = plan.load.group, plan.engine.engines
    speed = decode_speed(plan.cfg, plan.cluster, plan.model, plan.engine)
    questions = [responses[start : start + group] for start in range(0, len(responses), group)]
    slowest = 0.0
    for engine in range(min(engines, len(questions))):
        share = tuple(length for question in questions[engine::engines] for length in question)
        prompts = prefill_seconds(plan.cfg, plan.cluster, plan.model, plan.load, plan.engine, len(share))
        slowest = max(slowest, prompts + decode_seconds(plan.load.prompt, share, plan.engine.concurrent, speed))
    return slowest


def _on_the_clock(plan: Plan, phases: dict[str, float], tokens: float) -> StepTime:
    """Phases one after another, or the longer of rollouts and training where they run side by side."""
    parts = dict(phases)
    if not plan.cluster.shared and plan.cfg.grpo.staleness:
        sides = [sum(phases[name] for name in side) for side in (SAMPLED, TRAINED)]
        for name in TRAINED if sides[0] >= sides[1] else SAMPLED:
            del parts[name]
    return StepTime(parts, phases["generation"], tokens)


def kept_lengths(folder: Path) -> tuple[float, list[int]]:
    """Of a run's kept rollouts: tokens of a prompt on average, and of every response.

    Raises:
        ValueError: the run has kept none.
    """
    files = by_step(RunFolder(folder).rollouts, ".parquet")
    if not files:
        raise ValueError(f"simulate.lengths: no rollouts/step_<n>.parquet in {folder}; name the folder of a run")
    prompts: list[int] = []
    responses: list[int] = []
    for path in files.values():
        table = pyarrow.parquet.read_table(path, columns=["prompt_ids", "response_ids"])
        prompts += _sizes(table["prompt_ids"])
        responses += _sizes(table["response_ids"])
    return sum(prompts) / len(prompts), [max(1, length) for length in responses]


def _sizes(lists: pyarrow.ChunkedArray) -> list[int]:
    return pyarrow.compute.call_function("list_value_length", [lists]).to_pylist()
