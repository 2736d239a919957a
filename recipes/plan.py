"""What a run needs and takes, before it is submitted: memory by part, time by phase, and what would make it fit.

    python recipes/plan.py experiment=grpo_8b
    python recipes/plan.py experiment=grpo_8b parallel.data=32 plan.gpu=h100
    python recipes/plan.py experiment=published/nemo_rl_8b  # a published step, to compare with
    python recipes/plan.py experiment=grpo_8b plan.table=true  # the fastest layouts of every model
    python recipes/plan.py experiment=grpo_8b plan.gpus=64 plan.search=true  # the five best of this model and cluster

Works from the model's config.json; no weight is allocated and no GPU is needed. Ends with status 2 where the run
would not fit.
"""

from __future__ import annotations

from rich.console import Console

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config


def print_plan(cfg: Config) -> None:
    """Plans the run and prints it.

    Raises:
        ValueError: the run would not fit.
    """
    from alphamed_nemo.plan.changes import advise  # torch, which takes seconds: once the settings are right
    from alphamed_nemo.plan.prediction import make_plan
    from alphamed_nemo.plan.text import plan_text

    made = make_plan(cfg)
    show(plan_text(made, [] if made.fits else advise(made)))
    if not made.fits:
        raise ValueError("this run would not fit; the changes above would make it fit")


def print_table(cfg: Config) -> None:
    from alphamed_nemo.plan.layout_table import table

    show(table(cfg))


def print_search(cfg: Config) -> None:
    from alphamed_nemo.plan.search_text import search_text

    show(search_text(cfg))


def show(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


@recipe("plan", on_gpus=lambda: True)
def main(cfg: Config) -> None:
    if cfg.plan.table:
        print_table(cfg)
    elif cfg.plan.search:
        print_search(cfg)
    else:
        print_plan(cfg)


if __name__ == "__main__":
    main()
