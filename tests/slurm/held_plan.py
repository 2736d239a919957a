"""alphamed_nemo.launch.slurm with ranks that stand still at the points of tests/integration/held_worker.py."""

from __future__ import annotations

from alphamed_nemo.config import Config
from alphamed_nemo.launch import slurm
from alphamed_nemo.launch.allocation import Allocation, Places
from alphamed_nemo.launch.components import Component
from tests.integration.held_recipe import WORKERS

planned = slurm.trainer


def held_trainer(cfg: Config, allocation: Allocation, places: Places) -> Component:
    component = planned(cfg, allocation, places)
    component.argv = [WORKERS.get(word, word) for word in component.argv]
    return component


if __name__ == "__main__":
    slurm.trainer = held_trainer
    slurm.main()
