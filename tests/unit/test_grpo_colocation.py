"""On GPUs that trainer and servers have in turn, neither takes memory before the other has given it back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.grpo import worker
from alphamed_nemo.grpo.recovery import RolloutPlane
from tests.unit.test_grpo_recovery import Policy


class Started(Exception):
    """The trainer has come as far as its model."""


@pytest.mark.parametrize(
    ("placement", "cuda", "expected"),
    [
        ("colocated", True, ["servers sleep", "the model takes memory"]),
        ("separate", True, ["the model takes memory"]),
        ("colocated", False, ["the model takes memory"]),
    ],
)
def test_servers_sleep_before_the_trainer_takes_its_first_memory(
    monkeypatch: pytest.MonkeyPatch, placement: str, cuda: bool, expected: list[str]
) -> None:
    done: list[str] = []

    def build(*arguments: object, **more: object) -> None:
        done.append("the model takes memory")
        raise Started

    exchange = SimpleNamespace(rank=0, from_rank0=lambda make: make())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(worker, "initialize", lambda *arguments: None)
    monkeypatch.setattr(worker.parallel_state, "get_data_parallel_rank", lambda: 0)
    monkeypatch.setattr(worker, "Exchange", lambda data_rank: exchange)
    monkeypatch.setattr(worker, "connect", lambda rollout: [])
    monkeypatch.setattr(worker, "put_to_sleep", lambda connections, within_s: done.append("servers sleep"))
    monkeypatch.setattr(worker, "MegatronPolicy", build)
    cfg = Config()
    cfg.rollout.placement = placement
    with pytest.raises(Started):
        worker.train(cfg, SimpleNamespace())
    assert done == expected


def test_servers_wake_once_every_rank_has_given_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg, done = Config(), []
    cfg.model.max_length, cfg.rollout.check_every_refit = 200, False
    policy = Policy()
    policy.offload = SimpleNamespace(give_back=lambda: done.append("give back"))
    exchange = SimpleNamespace(
        rank=0, group=None, from_rank0=lambda make: make(), any=lambda flag: done.append("all ranks are there")
    )
    servers = SimpleNamespace(
        collector=SimpleNamespace(rollouts=SimpleNamespace(version=0)),
        transfer=SimpleNamespace(refit=lambda weights, version: done.append("refit")),
    )
    plane = RolloutPlane(cfg, policy, exchange, servers)
    plane.checked = True
    plane.refit(1)
    assert done == ["give back", "all ranks are there", "refit"]
    assert servers.collector.rollouts.version == 1
