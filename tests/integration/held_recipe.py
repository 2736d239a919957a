"""train_grpo with the trainer of `held_worker`; takes the settings that train_grpo takes."""

from __future__ import annotations

from alphamed_nemo.config import Config
from alphamed_nemo.launch import components
from alphamed_nemo.launch.components import Component
from recipes import train_grpo

WORKERS = {"alphamed_nemo.grpo.worker": "tests.integration.held_worker"}


def held_trainer(cfg: Config) -> Component:
    component = components.trainer(cfg)
    component.argv = [WORKERS.get(word, word) for word in component.argv]
    return component


if __name__ == "__main__":
    train_grpo.trainer = held_trainer
    train_grpo.main()
