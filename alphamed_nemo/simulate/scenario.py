"""What is simulated: a run's steps, what saves and starts cost, and how often something fails, as plain numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from alphamed_nemo.plan.costs import checkpoint_bytes
from alphamed_nemo.plan.prediction import Plan
from alphamed_nemo.simulate.batches import StepTime, draw_steps

HOUR = 3600.0
NEVER = math.inf


@dataclass(frozen=True)
class Scenario:
    """One run. All times are seconds; `NEVER` stands for a mean time between events that do not happen.

    Attributes:
        times: what a step may take; each step is one of them, drawn anew.
        steps, save_every: of the run; the last step is saved, too.
        gpus, nodes, servers: that take part; servers are those of rollouts.
        straggler: how much longer a node takes in a step than the fastest, on average, as a share.
        save, load: a checkpoint.
        start: from a job's start to its first step, without `load`.
        server_start: until a lost rollout server answers again.
        detect: from a failure of a GPU or node until the job has ended.
        requeue: mean wait of a requeued job.
        fatal: mean time between failures of any of the GPUs and nodes.
        server_loss: mean time between failures of any of the servers.
        preemption: mean time between preemptions of the job.
        limit: of the job's time.
        notice: before `limit`, or a preemption, at which the job begins to stop.
    """

    times: Sequence[StepTime]
    steps: int
    save_every: int
    gpus: int
    nodes: int
    servers: int
    straggler: float = 0.0
    save: float = 0.0
    load: float = 0.0
    start: float = 0.0
    server_start: float = 0.0
    detect: float = 0.0
    requeue: float = 0.0
    fatal: float = NEVER
    server_loss: float = NEVER
    preemption: float = NEVER
    limit: float = NEVER
    notice: float = 0.0

    @property
    def mean_step(self) -> float:
        """Seconds of a step. The slowest of n exponential delays takes their mean × (1 + 1/2 + ... + 1/n)."""
        slowest = self.straggler * sum(1 / node for node in range(1, self.nodes + 1))
        return sum(time.seconds + slowest * time.paced for time in self.times) / len(self.times)


def make_scenario(plan: Plan, lengths: Sequence[int] | None = None, failures: bool = True) -> Scenario:
    """The run that the plan's settings describe.

    Args:
        lengths: tokens of responses to draw from; None: those of the plan.
        failures: whether anything goes wrong; stragglers and the job's time limit always count.

    Raises:
        ValueError: the plan does not fit, or a job's notice is too short to stop in.
    """
    cfg, cluster, simulate = plan.cfg, plan.cluster, plan.cfg.simulate
    if not plan.fits:
        raise ValueError(f"this run would not fit: {plan.problems[0]}; ./run plan shows what would")
    draw = random.Random(cfg.run.seed)
    servers = cluster.nodes if cluster.shared else cfg.rollout.servers
    storage = checkpoint_bytes(cfg, plan.model) / (simulate.storage_gb_s * 1e9)
    scenario = Scenario(
        times=draw_steps(plan, lengths or plan.load.responses, simulate.batches, draw),
        steps=cfg.grpo.steps,
        save_every=cfg.grpo.save_every,
        gpus=cluster.gpus,
        nodes=cluster.nodes,
        servers=servers,
        straggler=simulate.straggler,
        save=storage,
        load=storage,
        start=simulate.start_s,
        server_start=simulate.server_start_s,
        detect=simulate.detect_s,
        requeue=simulate.requeue_s,
        fatal=_together((cluster.gpus, simulate.gpu_mtbf_h), (cluster.nodes, simulate.node_mtbf_h), on=failures),
        server_loss=_together((servers, simulate.server_mtbf_h), on=failures),
        preemption=_together((1, simulate.preemption_h), on=failures),
        limit=simulate.time_limit_h * HOUR or NEVER,
        notice=simulate.notice_s,
    )
    if scenario.limit < NEVER:
        check_notice(scenario)
    return scenario


def check_notice(scenario: Scenario) -> None:
    """Refuses a time limit that a job cannot stop before.

    Raises:
        ValueError: names the setting.
    """
    longest = max(time.seconds for time in scenario.times) + scenario.save
    if scenario.notice < longest:
        raise ValueError(
            f"simulate.notice_s: found {scenario.notice:g}, but a step and a save take up to {longest:.0f} s; raise "
            "it, and --signal of the job"
        )
    if scenario.limit < scenario.notice + scenario.start + scenario.load + longest:
        raise ValueError(
            f"simulate.time_limit_h: found {scenario.limit / HOUR:g}, too short for a start, a step and a save"
        )


def _together(*parts: tuple[int, float], on: bool) -> float:
    """Mean seconds between events of several kinds of things: their rates add up.

    Args:
        parts: (how many things, hours between events of one; 0: never).
    """
    rate = sum(count / (hours * HOUR) for count, hours in parts if hours) if on else 0.0
    return 1 / rate if rate else NEVER
