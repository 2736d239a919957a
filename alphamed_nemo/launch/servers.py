"""Clients of the run's servers; servers that are not named by their URLs are started first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

from alphamed_nemo.config import Config
from alphamed_nemo.launch.components import reward_server, rollout_names, rollout_servers
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rollout.connection import RolloutLost, connect
from alphamed_nemo.rollout.pool import RolloutPool

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
    if not cfg.rollout.urls:
        for component in rollout_servers(cfg, model_path):
            launcher.start(component)
    if rewards and not cfg.reward.url:
        launcher.start(reward_server(cfg))


def check_reward_server(cfg: Config) -> None:
    with RewardClient(cfg.reward.url, cfg.reward) as client:
        client.check_server()


def stop_rollout_servers(cfg: Config, launcher: Launcher) -> None:
    """Stops those that the launcher runs, and forgets their URLs in `cfg`."""
    for name in running_rollout_servers(cfg, launcher):
        launcher.stop(name)
    cfg.rollout.urls = []


def running_rollout_servers(cfg: Config, launcher: Launcher) -> list[str]:
    """Names of the rollout servers that the launcher runs."""
    return [name for name in rollout_names(cfg.rollout.servers) if name in launcher.running]


def rollout_pool(cfg: Config, launcher: Launcher, model_path: str) -> RolloutPool:
    """A pool of rollout servers that are ready.

    Raises:
        ComponentError: one did not come up.
    """
    start_servers(cfg, launcher, model_path, rewards=False)
    wait_ready(launcher)
    vocabulary = json.loads((Path(model_path) / "config.json").read_text())["vocab_size"]
    return RolloutPool(connect(cfg.rollout), cfg.rollout, vocabulary)


def reward_client(cfg: Config, launcher: Launcher) -> RewardClient:
    """A client of a reward server that is ready.

    Raises:
        ComponentError: the server did not come up.
    """
    if not cfg.reward.url:
        launcher.start(reward_server(cfg))
    wait_ready(launcher)
    return RewardClient(cfg.reward.url, cfg.reward)


def resumed(cfg: Config, launcher: Launcher, work: Callable[[], T]) -> T:
    """Does `work`, which keeps what it has finished, again when all rollout servers were lost and are back.

    Raises:
        ComponentError: a server was lost and may not be started again.
        RolloutLost: they are not this launcher's, or were lost too often.
    """
    for losses in count():
        try:
            return work()
        except RolloutLost as error:
            names = running_rollout_servers(cfg, launcher)
            if not names or losses == MAX_LOSSES:
                raise
            log.warning("no rollout server is left: %s", error)
            launcher.check()
            for name in names:
                launcher.wait_ready(name)
    raise AssertionError("unreachable")


def watched(launcher: Launcher, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """`progress` that also lets the launcher start lost servers anew, while others go on with the work."""

    def on_progress(done: int, total: int) -> None:
        progress(done, total)
        launcher.check()

    return on_progress


def wait_ready(launcher: Launcher) -> None:
    """Waits for every component that the launcher runs."""
    for name in list(launcher.running):
        launcher.wait_ready(name)
