"""Settings of recipes/simulate.py: what goes wrong in a run, how often, and what each time costs, with the reasons.

Plain dataclasses, importable without torch. The times of a step are the plan's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alphamed_nemo.config.ranges import assumptions, positive, ranged

LLAMA = "Llama 3 405B, 54 days on 16,384 H100 (arXiv 2407.21783, section 3.3.4): "


@dataclass
class SimulateConfig:
    """How many runs are simulated, and what happens in them. 0 for a mean time: never."""

    runs: int = ranged(20, low=2)  # simulated runs of each case, from run.seed on
    lengths: str = ""  # folder of a run whose kept rollouts say how long responses are; empty: as the plan assumes
    batches: int = ranged(32, low=1)  # drawn batches whose sampling is timed; each step is one of them
    answers: bool = True  # also: the best save_every, placement and staleness, and one more node
    curve: bool = False  # also: goodput on 8 to 1,024 GPUs, of runs of `curve_days`
    curve_days: float = positive(7.0)
    curve_grows: bool = False  # grpo.questions_per_step grows with the GPUs, from what these settings' own number asks

    # What goes wrong
    gpu_mtbf_h: float = ranged(86_000.0, low=0, because=LLAMA + "246 interruptions by GPUs")
    node_mtbf_h: float = ranged(15_000.0, low=0, because=LLAMA + "173 by everything else, of 2,048 nodes")
    server_mtbf_h: float = ranged(2_000.0, low=0, because="a rollout server's own failure; a guess")
    preemption_h: float = ranged(0.0, low=0, because="between two preemptions of the job; the site's own")
    straggler: float = ranged(
        0.01, low=0, because="how much longer a node takes in a step, on average, exponential; all wait for the slowest"
    )

    # What it costs
    detect_s: float = ranged(60.0, low=0, because="until a failure of a rank or node has ended the attempt")
    requeue_s: float = ranged(
        300.0, low=0, because="mean wait in the queue, exponential; Slurm alone holds a requeued job for two minutes"
    )
    start_s: float = ranged(180.0, low=0, because="from the job's start to the first step, without loading; a guess")
    server_start_s: float = ranged(120.0, low=0, because="until a lost rollout server answers again; a guess")
    storage_gb_s: float = positive(
        10.0, because="file system, all nodes together, writing or reading checkpoints; a guess"
    )
    time_limit_h: float = ranged(24.0, low=0, because="--time of the job; it saves and is requeued `notice_s` before")
    notice_s: float = ranged(600.0, low=0, because="--signal of slurm/grpo_8b.sh; a preemption's grace is the same")

    def assumptions(self) -> list[tuple[str, Any, str]]:
        """(name, value, reason) of every assumption, as those of the plan."""
        return assumptions(self, "simulate")
