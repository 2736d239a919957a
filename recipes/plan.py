"""What a run needs and takes, before it is submitted: memory by part, time by phase, and what would make it fit.

    python recipes/plan.py experiment=grpo_8b
    python recipes/plan.py experiment=grpo_8b parallel.data=32 plan.gpu=h100
    python recipes/plan.py experiment=published/nemo_rl_8b  # a published step, to compare with
    python recipes/plan.py experiment=grpo_8b plan.table=true  # the fastest layouts of every model

Works from the model's config.json; no weight is allocated and no GPU is needed. Ends with status 2 where the run
would not fit.
"""

from __future__ import annotations

from rich.console import Console

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.plan.changes import advise
from alphamed_nemo.plan.layout_table import table
from alphamed_nemo.plan.prediction import Plan, make_plan
from alphamed_nemo.plan.text import plan_text


def plan(cfg: Config) -> Plan:
    """Plans the run, prints it, and returns it."""
    made = make_plan(cfg)
    Console(highlight=False, soft_wrap=True).print(plan_text(made, [] if made.fits else advise(made)), markup=False)
    return made


@recipe("plan", on_gpus=lambda: True)
def main(cfg: Config) -> None:
    if cfg.plan.table:
        Console(highlight=False, soft_wrap=True).print(table(cfg), markup=False)
    elif not plan(cfg).fits:
        raise ValueError("this run would not fit; the changes above would make it fit")


if __name__ == "__main__":
    main()
