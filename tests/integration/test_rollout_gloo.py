"""A refit over gloo, as between hosts: one broadcast reaches two servers.

A server that is killed meanwhile costs the other another try and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender
from alphamed_nemo.rollout.check import check_served_weights
from alphamed_nemo.rollout.connection import RolloutError, RolloutLost
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import read_manifest
from tests.integration.conftest import ServedModel, served, write_tiny_llama
from tests.integration.test_rollout_refit import IDS, load, logprobs

CLOSE = 1e-4  # nats; noise of 0.02 on every weight moves log-probs by a thousand times as much


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServedModel]]:
    model = write_tiny_llama(tmp_path_factory.mktemp("tied"), tied=True)
    with ExitStack() as running, ThreadPoolExecutor() as starting:

        def start(name: str) -> ServedModel:
            return running.enter_context(served(model, tmp_path_factory.mktemp(name), transfer="gloo"))

        yield list(starting.map(start, ("first", "second")))


def kill(server: ServedModel) -> None:
    for process in psutil.Process(server.pid).children(recursive=True):
        process.kill()


@pytest.mark.nightly  # starts two servers; one engine, without HTTP, is in test_rollout_carriers.py
def test_one_broadcast_reaches_both_servers_and_a_killed_server_ends_no_ones_waiting(servers: list[ServedModel]):
    connections = [connection for server in servers for connection in server.connections()]
    manifest = replace(read_manifest(servers[0].path), dtype="float32")
    transfer = WeightTransfer(connections, servers[0].cfg.rollout, manifest)
    assert isinstance(transfer.sender, BroadcastSender)
    transfer.sender.transport.bucket_bytes = 50_000  # of 600,000
    for version in (1, 2):
        new = load(servers[0].path, changed_by=0.02, seed=version)
        transfer.refit(new.named_parameters(), version)
        for server in servers:
            check_served_weights(server.pool(), [(IDS, logprobs(new, IDS))], CLOSE)
    group = transfer.sender.group

    spoilt = [pair for pair in load(servers[0].path).named_parameters() if pair[0] != "model.norm.weight"]
    with pytest.raises(RolloutError, match="1 missing: model.norm.weight"):
        transfer.refit(iter(spoilt), 3)
    new = load(servers[0].path, changed_by=0.02, seed=4)
    transfer.refit(new.named_parameters(), 4)
    assert transfer.sender.group is not group  # that one may hold half a broadcast
    for server in servers:
        check_served_weights(server.pool(), [(IDS, logprobs(new, IDS))], CLOSE)

    def dying() -> Iterator:
        for number, pair in enumerate(load(servers[0].path, changed_by=0.02, seed=5).named_parameters()):
            if number == 8:
                kill(servers[1])
            yield pair

    with pytest.raises(RolloutLost):
        transfer.refit(dying(), 5)
    assert [bool(connection.lost) for connection in connections] == [False, True]
    new = load(servers[0].path, changed_by=0.02, seed=6)
    transfer.refit(new.named_parameters(), 6)
    check_served_weights(servers[0].pool(), [(IDS, logprobs(new, IDS))], CLOSE)
    (group,) = servers[0].pool().generate([IDS], max_new_tokens=4)  # it is not left paused
    assert {rollout.weight_version for rollout in group} == {6}
    transfer.close()
