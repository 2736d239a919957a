"""The choreography of a refit of several servers, of which some are lost on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from alphamed_nemo.rollout.connection import RolloutError, RolloutLost, connect
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest
from tests.stand_in_vllm import StandIn, settings, stand_ins

STEPS = (
    "/pause",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/resume",
)
WEIGHTS = {"a": torch.ones(3, 2), "b": torch.zeros(5)}
MANIFEST = Manifest({name: tuple(tensor.shape) for name, tensor in WEIGHTS.items()}, "float32")


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with stand_ins(3) as servers:
        yield servers


def transfer_to(servers: list[StandIn]) -> WeightTransfer:
    cfg = settings(servers)
    return WeightTransfer(connect(cfg), cfg, MANIFEST, cuda=False)


def refit(transfer: WeightTransfer, version: int) -> None:
    assert transfer.refit(iter(WEIGHTS.items()), version).bytes == 4 * (6 + 5)


def serving(transfer: WeightTransfer) -> list[str]:
    return [connection.url for connection in transfer.connections if not connection.lost]


def test_each_step_is_taken_by_all_servers_before_the_next_and_the_weights_are_written_once(servers) -> None:
    transfer = transfer_to(servers)
    refit(transfer, 4)
    journal = servers[0].journal
    assert [path for _, path in journal] == [path for path in STEPS for _ in servers]
    for place in range(0, len(journal), len(servers)):
        assert {url for url, _ in journal[place : place + len(servers)]} == {server.url for server in servers}
    assert [server.version for server in servers] == ["4"] * 3
    assert servers[0].updates == servers[1].updates == servers[2].updates
    transfer.close()


@pytest.mark.parametrize("path", [*STEPS, "/weight_info"])
def test_a_server_that_is_lost_in_mid_refit_gets_the_weights_when_it_is_back(servers, path: str) -> None:
    transfer = transfer_to(servers)
    servers[1].lose_at = {path: 1}
    refit(transfer, 4)
    assert serving(transfer) == [servers[0].url, servers[2].url]
    assert servers[0].calls == servers[2].calls == list(STEPS)
    refit(transfer, 5)  # without it: it is not back yet
    assert [server.version for server in (servers[0], servers[2])] == ["5"] * 2
    servers[1].back()
    refit(transfer, 6)
    assert [server.version for server in servers] == ["6"] * 3 and len(serving(transfer)) == 3
    assert servers[1].calls[-len(STEPS) :] == list(STEPS)
    transfer.close()


@pytest.mark.parametrize("path", STEPS[1:])
def test_a_server_that_another_start_replaces_in_mid_refit_is_left_out(servers, path: str) -> None:
    transfer = transfer_to(servers)
    answer = servers[1].answer

    def restarted(asked: str, body: dict):
        if asked == path and servers[1].start == 1:
            servers[1].back()
        return answer(asked, body)

    servers[1].answer = restarted
    refit(transfer, 4)
    assert serving(transfer) == [servers[0].url, servers[2].url]
    assert "another server was started in its place" in transfer.connections[1].lost
    refit(transfer, 5)
    assert [server.version for server in servers] == ["5"] * 3 and len(serving(transfer)) == 3
    transfer.close()


def test_a_refit_that_no_server_is_left_of_is_lost(servers) -> None:
    transfer = transfer_to(servers)
    for number, server in enumerate(servers):
        server.lose_at = {STEPS[1 + number]: 1}
    with pytest.raises(RolloutLost):
        refit(transfer, 1)
    with pytest.raises(RolloutLost, match=servers[0].url):
        refit(transfer, 1)
    servers[2].back()
    transfer.wait_ready(20)
    refit(transfer, 1)
    assert serving(transfer) == [servers[2].url]
    with pytest.raises(RolloutLost, match="for 0 s: none is healthy"):
        servers[2].lost = True
        transfer.wait_ready(0)
    transfer.close()


def test_an_update_that_one_server_refuses_fails_and_none_samples_from_a_mixture(servers) -> None:
    transfer = transfer_to(servers)
    servers[2].refuse = {"/update_weights"}
    with pytest.raises(RolloutError, match="/update_weights is refused"):
        refit(transfer, 1)
    assert [server.version for server in servers] == ["default"] * 3
    assert "/resume" not in servers[0].calls  # two have loaded the weights under the old version
    servers[2].refuse = set()
    refit(transfer, 2)
    assert [server.version for server in servers] == ["2"] * 3
    assert all(server.calls[-1] == "/resume" for server in servers)
    for server in servers:
        server.refuse = {"/update_weights"}
    with pytest.raises(RolloutError, match="/update_weights is refused"):
        refit(transfer, 3)
    assert all(server.calls[-1] == "/resume" for server in servers)  # none has loaded anything
    transfer.close()
