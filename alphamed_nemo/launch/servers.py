"""Clients of the run's servers; a server that is not named by its URL is started first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

from alphamed_nemo.config import Config
from alphamed_nemo.launch.components import reward_server, rollout_server
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rollout.client import RolloutClient, RolloutLost

MAX_LOSSES = 3

log = logging.getLogger(__name__)
T = TypeVar("T")


def start_servers(cfg: Config, launcher: Launcher, model_path: str, rewards: bool = True) -> None:
    """Starts what does not run yet, without waiting; fills the URLs in `cfg`.

    Raises:
        RewardError: the reward server that runs already is none of this run's protocol.
    """
    if rewards and cfg.reward.url:
        check_reward_server(cfg)
    if not cfg.rollout.url:
        launcher.start(rollout_server(cfg, model_path))
    if rewards and not cfg.reward.url:
        launcher.start(reward_server(cfg))


def check_reward_server(cfg: Config) -> None:
    with RewardClient(cfg.reward.url, cfg.reward) as client:
        client.check_server()


def rollout_client(cfg: Config, launcher: Launcher, model_path: str) -> RolloutClient:
    """A client of a rollout server that is ready.

    Raises:
        ComponentError: the server did not come up.
    """
    start_servers(cfg, launcher, model_path, rewards=False)
    wait_ready(launcher)
    vocabulary = json.loads((Path(model_path) / "config.json").read_text())["vocab_size"]
    return RolloutClient(cfg.rollout.url, cfg.rollout.api_key, cfg.rollout, vocabulary)


def reward_client(cfg: Config, launcher: Launcher) -> RewardClient:
    """A client of a reward server that is ready.

    Raises:
        ComponentError: the server did not come up.
    """
    if not cfg.reward.url:
        launcher.start(reward_server(cfg))
    wait_ready(launcher)
    return RewardClient(cfg.reward.url, cfg.reward)


def resumed(launcher: Launcher, work: Callable[[], T]) -> T:
    """Does `work`, which keeps what it has finished, again when its rollout server was lost and is back.

    Raises:
        ComponentError: the server was lost and may not be started again.
        RolloutLost: it is not this launcher's, or was lost too often.
    """
    for losses in count():
        try:
            return work()
        except RolloutLost as error:
            if "vllm" not in launcher.running or losses == MAX_LOSSES:
                raise
            log.warning("the rollout server was lost: %s", error)
            launcher.check()
            launcher.wait_ready("vllm")
    raise AssertionError("unreachable")


def wait_ready(launcher: Launcher) -> None:
    """Waits for every component that the launcher runs."""
    for name in list(launcher.running):
        launcher.wait_ready(name)
