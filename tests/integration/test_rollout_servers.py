"""Several vLLM servers as one: the same samples from any number of them, and from those that are left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.launch.child import descendants
from alphamed_nemo.launch.components import rollout_servers
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.rollout.check import check_served_weights
from alphamed_nemo.rollout.connection import Connection, connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.types import Rollout
from alphamed_nemo.rollout.update_manifest import read_manifest
from tests.integration.conftest import ServedModel
from tests.integration.test_rollout_refit import IDS, load, logprobs

PROMPTS = [[1, *range(20 + i, 40 + 2 * i)] for i in range(48)]
CLOSE = 1e-5  # nats


class Two:
    """Two servers of the tiny model, and a launcher that starts them anew."""

    def __init__(self, cfg: Config, launcher: Launcher) -> None:
        self.cfg, self.launcher = cfg, launcher
        self.connections = connect(cfg.rollout)

    def pool(self, *more: Connection) -> RolloutPool:
        return RolloutPool([*self.connections, *more], self.cfg.rollout)

    def transfer(self) -> WeightTransfer:
        manifest = replace(read_manifest(self.cfg.model.path), dtype="float32")
        return WeightTransfer(self.connections, self.cfg.rollout, manifest)

    def kill(self, name: str) -> None:
        """Every process of a server, at once."""
        for pid in descendants(self.launcher.running[name].process.pid):
            os.kill(pid, signal.SIGKILL)

    def start_again(self, name: str) -> None:
        self.launcher.running[name].process.wait()
        self.launcher.check()
        self.launcher.wait_ready(name)


@pytest.fixture(scope="module")
def two(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    cfg = Config()
    cfg.model.path, cfg.model.max_length = str(tiny_llama), 256
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.rollout.memory_gb, cfg.rollout.max_num_seqs, cfg.rollout.request_timeout_s = 0.1, 64, 60.0
    cfg.rollout.servers, cfg.rollout.retries, cfg.rollout.api_key = 2, 0, "test-key"
    with Launcher(tmp_path_factory.mktemp("two")) as launcher:
        for component in rollout_servers(cfg, cfg.model.path):
            launcher.start(component)
        for name in list(launcher.running):
            launcher.wait_ready(name)
        yield Two(cfg, launcher)


def sample(pool: RolloutPool, seed: int = 3) -> list[list[Rollout]]:
    return pool.generate(PROMPTS, n=4, max_new_tokens=32, seed=seed)


def ids(groups: list[list[Rollout]]) -> list[list[list[int]]]:
    return [[rollout.response_ids for rollout in group] for group in groups]


def test_the_samples_are_the_same_whatever_the_number_of_servers(rollout_server: ServedModel, two: Two):
    expected = ids(sample(rollout_server.pool()))
    assert ids(sample(two.pool())) == expected
    assert ids(sample(two.pool(*rollout_server.connections()))) == expected
    assert len({str(response) for group in expected for response in group}) > len(PROMPTS)


def test_a_server_killed_in_mid_rollout_changes_no_sample_and_the_next_refit_takes_it_in_again(
    rollout_server: ServedModel, two: Two
):
    pool, transfer = two.pool(), two.transfer()
    expected = ids(sample(rollout_server.pool()))
    stream = pool.stream(PROMPTS, n=4, max_new_tokens=32, seed=3)
    found = dict([next(stream)])
    two.kill("vllm-1")
    found |= dict(stream)
    assert ids([found[index] for index in range(len(PROMPTS))]) == expected
    assert [client.connection for client in pool.serving] == two.connections[:1]
    new = load(rollout_server.path, changed_by=0.02, seed=1)
    transfer.refit(new.named_parameters(), version=1)
    pool.version = 1
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], CLOSE)
    alone = ids(sample(pool))
    two.start_again("vllm-1")
    assert ids(sample(pool)) == alone and len(pool.serving) == 1  # it has the weights of its folder
    transfer.refit(new.named_parameters(), version=2)
    pool.version = 2
    assert ids(sample(pool)) == alone and len(pool.serving) == 2
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], CLOSE)
    transfer.close()


def test_a_server_killed_in_mid_refit_leaves_the_others_with_the_new_weights(rollout_server: ServedModel, two: Two):
    pool, transfer = two.pool(), two.transfer()
    new = load(rollout_server.path, changed_by=0.02, seed=2)

    def killing() -> Iterator[tuple[str, torch.Tensor]]:
        for number, weight in enumerate(new.named_parameters()):
            if number == 5:
                two.kill("vllm-0")
            yield weight

    assert transfer.refit(killing(), version=3).tensors == len(list(new.parameters()))
    pool.version = 3
    assert [client.connection for client in pool.serving] == two.connections[1:]
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], CLOSE)
    assert {rollout.weight_version for group in sample(pool) for rollout in group} == {3}
    transfer.close()
