"""A run of days or weeks on 8 to 1,024 GPUs, simulated: goodput, days, where the time goes, how often to save.

    python recipes/simulate.py experiment=grpo_8b grpo.steps=2000
    python recipes/simulate.py experiment=grpo_8b simulate.lengths=runs/my_run  # with the response lengths of a run
    python recipes/simulate.py experiment=grpo_70b simulate.curve=true  # and goodput on up to 1,024 GPUs

Step times are those of recipes/plan.py; failures, queue and storage are settings with their reasons. Writes
<run>/report/simulation.html. No weight is allocated and no GPU is needed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder

if TYPE_CHECKING:
    from alphamed_nemo.simulate.simulation_page import Simulation

log = logging.getLogger(__name__)


def simulate(cfg: Config) -> Simulation:
    """Simulates the run, and what else `simulate` asks for.

    Raises:
        ValueError: the run would not fit, or its job could not stop in time.
    """
    from alphamed_nemo.plan.changes import apply  # torch, which takes seconds: once the settings are right
    from alphamed_nemo.plan.prediction import make_plan
    from alphamed_nemo.simulate import answers
    from alphamed_nemo.simulate.batches import kept_lengths
    from alphamed_nemo.simulate.simulation_page import Simulation

    lengths, words = None, f"exponential, {cfg.plan.response_tokens:g} tokens on average"
    if cfg.simulate.lengths:
        prompt, lengths = kept_lengths(Path(cfg.simulate.lengths))
        mean = sum(lengths) / len(lengths)
        cfg = apply(cfg, {"plan.prompt_tokens": prompt, "plan.response_tokens": mean})
        words = f"drawn from {len(lengths):,} responses of {cfg.simulate.lengths}, {mean:.0f} tokens on average"
    plan = make_plan(cfg)
    found = answers.simulated(plan, lengths)
    asked = {}
    if cfg.simulate.answers:
        asked["saves"] = answers.save_intervals(found.scenario, cfg.simulate.runs, cfg.run.seed)
        asked["young"] = answers.youngs_interval(found.scenario)
        asked["placements"] = answers.placements(plan, lengths)
        asked["more"] = answers.one_more_node(plan, lengths)
    if cfg.simulate.curve:
        asked["points"] = answers.curve(cfg, plan.model, lengths)
    return Simulation(plan, words, found, **asked)


def report(simulation: Simulation, path: Path) -> None:
    """Writes the page and says the most important of it."""
    from alphamed_nemo.simulate.simulation_page import headline, tiles, write_simulation

    log.info("%s", headline(simulation))
    for tile in tiles(simulation):
        log.info("%s: %s (%s)", tile.name, tile.value, tile.note)
    log.info("page: %s", write_simulation(simulation, path))


@recipe("simulate", on_gpus=lambda: True)
def main(cfg: Config) -> None:
    report(simulate(cfg), RunFolder.of(cfg).simulation)


if __name__ == "__main__":
    main()
