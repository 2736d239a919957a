"""What limits a step: its longest phase, and what that phase waits for most."""

from __future__ import annotations

from alphamed_nemo.plan.generation import decode_seconds, decode_speed
from alphamed_nemo.plan.prediction import Plan

ALONE = 0.5  # share of the generation from which on the longest response alone is what limits it


def limited_by(plan: Plan) -> str:
    """The phase that takes most of the step, with its share of the phases' work, and why it takes so long."""
    name = max(plan.phases, key=lambda phase: plan.phases[phase])
    because = {"generation": _generation, "training": _training}.get(name)
    share = plan.phases[name] / sum(plan.phases.values())
    return f"{name} {share:.0%}" + (f": {because(plan)}" if because else "")


def _generation(plan: Plan) -> str:
    speed = decode_speed(plan.cfg, plan.cluster, plan.model, plan.engine)
    longest = (max(plan.load.responses),)
    if decode_seconds(plan.load.prompt, longest, 1, speed) > ALONE * plan.phases["generation"]:
        return "the longest response"
    live = min(plan.engine.concurrent, plan.load.samples / plan.engine.engines)
    context = live * (plan.load.prompt + plan.load.half_grown)
    parts = {
        "matrix products": speed.response * live,
        "reading weights": speed.weights,
        "reading caches": speed.token * context,
        "small collectives": speed.collectives,
    }
    return max(parts, key=lambda part: parts[part])


def _training(plan: Plan) -> str:
    train = plan.training
    parts = {
        "matrix products": train.products,
        "pipeline bubble": train.bubble,
        "tensor collectives": train.tensor,
        "gradients and weights between ranks": train.data,
        "optimizer": train.optimizer,
    }
    return max(parts, key=lambda part: parts[part])
