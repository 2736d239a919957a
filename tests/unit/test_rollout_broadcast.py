"""A refit by broadcast reaches every worker of every server, and ends within its limits whatever is lost meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest
import torch

from alphamed_nemo.rollout.carriers import broadcast
from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender, address_towards
from alphamed_nemo.rollout.carriers.refit_group import in_background
from alphamed_nemo.rollout.connection import RolloutError, RolloutLost
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest
from tests.unit.stand_in_servers import Gloo, Server, Silent

LIMIT_S = 1.0  # of a wait for a member that is gone without a word
GROUP_S = 5.0  # of a group over TCP, whose limit stays what it was formed with
AMPLE_S = 30.0  # of what must succeed, however busy the machine is
SHAPES = {f"layer {n}": (n + 1, 7) for n in range(5)}


def weights(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}
    found["layer 2"] = found["layer 2"].t().contiguous().t()  # as a transform may yield it: not contiguous
    return found


@pytest.fixture(params=["gloo", "silent"])
def transport(request: pytest.FixtureRequest) -> Gloo | Silent:
    return {"gloo": Gloo, "silent": Silent}[request.param]()


@pytest.fixture
def servers(transport: Gloo | Silent) -> Iterator[list[Server]]:
    servers = [Server(0, 2, transport.enter), Server(1, 1, transport.enter)]
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def sender(transport: Gloo | Silent) -> Iterator[BroadcastSender]:
    transport.bucket_bytes = 4 * 7 * 4  # four buckets: of two weights, and of one each
    sender = BroadcastSender(Manifest(SHAPES, "float32"), transport, limit_s=AMPLE_S)
    yield sender
    sender.close()


def refit(sender: BroadcastSender, servers: list[Server], seed: int) -> None:
    """As WeightTransfer does, of what concerns the sender."""
    receivers = Receivers([server for server in servers if not server.lost])
    sender.open(receivers)
    try:
        size = sender.send(iter(weights(seed).items()))
    except BaseException:
        for server in receivers.present:
            sender.abort(server)
        raise
    sender.partial = False
    assert size == sum(tensor.numel() * 4 for tensor in weights(seed).values())


def limit(limit_s: float, sender: BroadcastSender, servers: list[Server]) -> None:
    """From the next wait on; a group that stands already has its workers' limit changed, too."""
    sender.limit_s = limit_s
    for worker in (worker for server in servers for worker in server.workers):
        worker.limit_s = limit_s


def check(servers: list[Server], seed: int) -> None:
    """Every worker has exactly these weights."""
    for server in servers:
        for worker in server.workers:
            assert list(worker.weights) == list(SHAPES)
            for name, tensor in weights(seed).items():
                assert torch.equal(worker.weights[name], tensor), (server.url, name)


def joins(server: Server) -> int:
    return server.calls.count("/init_weight_transfer_engine")


def test_every_worker_of_every_server_gets_the_same_bytes_in_one_group(sender, servers):
    for seed in range(3):
        refit(sender, servers, seed)
        check(servers, seed)
    assert [joins(server) for server in servers] == [1, 1]


def test_a_server_that_was_started_anew_gets_a_new_group(sender, servers):
    """Also where no request told of its end: it was restarted between a batch and a refit."""
    refit(sender, servers, 0)
    servers[1].kill()
    servers[1].restart()
    refit(sender, servers, 1)
    check(servers, 1)
    assert [joins(server) for server in servers] == [2, 2]


def test_the_servers_that_are_left_get_a_group_of_their_own_and_later_one_with_the_lost_one(sender, servers):
    refit(sender, servers, 0)
    servers[1].kill()
    servers[1].lose("killed")
    refit(sender, servers, 1)
    check(servers[:1], 1)
    servers[1].restart()
    refit(sender, servers, 2)
    check(servers, 2)


@pytest.mark.parametrize("path", ["/get_world_size", "/init_weight_transfer_engine", "/update_weights"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_server_that_dies_over_a_refit_is_lost_and_the_others_are_refitted_next(sender, servers, path, at):
    servers[at].fault[path] = "gone"
    left = servers[1 - at]
    if path != "/get_world_size":  # after that the group has the other one alone
        limit(LIMIT_S, sender, servers)
        with pytest.raises(RolloutLost, match="connection refused"):
            refit(sender, servers, 0)
    assert not left.lost
    limit(AMPLE_S, sender, servers)
    refit(sender, servers, 1)
    check([left], 1)
    servers[at].restart()
    refit(sender, servers, 2)
    check(servers, 2)


def test_a_server_that_is_lost_as_soon_as_it_is_called_is_not_forgotten(sender, servers, monkeypatch):
    receivers = Receivers(servers)
    sender.open(receivers)
    servers[0].fault["/update_weights"] = "gone"

    def answered_at_once(act: Callable[[], Any]) -> Future[Any]:
        future = in_background(act)
        wait([future])
        return future

    monkeypatch.setattr(broadcast, "in_background", answered_at_once)
    with pytest.raises(RolloutLost, match="the announcement: .*connection refused"):
        sender.send(iter(weights(0).items()))


@pytest.mark.parametrize("at", [0, 1])
def test_a_server_that_dies_in_the_middle_of_the_buckets_ends_the_group_of_the_others(sender, servers, at):
    """The others wait in a broadcast by then, and take part in the next refit."""
    sender.limit_s = GROUP_S
    refit(sender, servers, 0)

    def dying() -> Iterator[tuple[str, torch.Tensor]]:
        for number, pair in enumerate(weights(1).items()):
            if number == 3:
                limit(LIMIT_S, sender, servers)
                servers[at].kill()
            yield pair

    receivers = Receivers(servers)
    sender.open(receivers)
    with pytest.raises(RolloutLost, match="broadcast of a bucket of weights: .*connection re"):
        sender.send(dying())
    assert sender.partial
    assert [bool(server.lost) for server in servers] == [at == 0, at == 1]
    assert sender.group is None
    limit(AMPLE_S, sender, servers)
    refit(sender, servers, 2)
    check([servers[1 - at]], 2)


def test_a_server_that_neither_answers_nor_takes_part_costs_no_more_than_the_limit(sender, servers):
    """A stopped process: its connections stay, and the launcher finds it later, here as the limit is over."""
    sender.limit_s = GROUP_S
    refit(sender, servers, 0)
    started: list[float] = []
    waited: list[float] = []
    end_group = sender._end_group

    def found_later() -> None:
        waited.append(time.monotonic() - started[0])
        end_group()
        servers[0].kill()

    def stopping() -> Iterator[tuple[str, torch.Tensor]]:
        for number, pair in enumerate(weights(1).items()):
            if number == 3:
                servers[0].fault["/update_weights"] = "silent"
                started.append(time.monotonic())
                limit(LIMIT_S, sender, servers)
            yield pair

    sender.open(Receivers(servers))
    sender._end_group = found_later
    with pytest.raises(RolloutLost):
        sender.send(stopping())
    assert 0.9 * LIMIT_S < waited[0] < AMPLE_S
    del sender._end_group
    limit(AMPLE_S, sender, servers)
    refit(sender, servers, 2)
    check([servers[1]], 2)


def test_a_refusal_is_reported_as_one_and_not_as_a_loss(sender, servers):
    refit(sender, servers, 0)
    servers[1].fault["/update_weights"] = "refused"
    with pytest.raises(RolloutError, match="refused") as raised:
        refit(sender, servers, 1)
    assert not isinstance(raised.value, RolloutLost)
    assert not any(server.lost for server in servers)


def test_a_server_that_has_lost_its_group_is_not_lost_and_gets_a_new_one(sender, servers):
    refit(sender, servers, 0)
    for worker in servers[0].workers:
        worker.group.destroy()
        worker.group = None
    with pytest.raises(RolloutLost, match="there is none"):
        refit(sender, servers, 1)
    assert not servers[0].lost
    refit(sender, servers, 2)
    check(servers, 2)


def test_an_error_in_the_trainer_ends_the_update_and_the_next_refit_works(sender, servers):
    def failing() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(weights(0).items())[:3]
        limit(LIMIT_S, sender, servers)
        raise ZeroDivisionError("in the trainer")

    sender.open(Receivers(servers))
    with pytest.raises(ZeroDivisionError):
        sender.send(failing())
    assert sender.partial
    for server in servers:
        sender.abort(server)
    limit(AMPLE_S, sender, servers)
    refit(sender, servers, 1)
    check(servers, 1)


def test_the_next_bucket_is_gathered_before_the_last_one_is_loaded(sender, servers):
    """Servers that answer only once the trainer has asked for a further weight would wait for ever otherwise."""
    refit(sender, servers, 0)
    asked: list[str] = []
    answers = servers[0]._answer

    def late(path: str, body: dict) -> dict:
        if path == "/update_weights" and body["update_info"]["names"]:
            sent = list(SHAPES).index(body["update_info"]["names"][-1]) + 1
            further = min(sent + 2, len(SHAPES))  # the next one closes this bucket, those after it fill the next
            with servers[0].killed:
                assert servers[0].killed.wait_for(lambda: len(asked) >= further, 20)
        return answers(path, body)

    def watched() -> Iterator[tuple[str, torch.Tensor]]:
        for pair in weights(1).items():
            with servers[0].killed:
                asked.append(pair[0])
                servers[0].killed.notify_all()
            yield pair

    servers[0]._answer = late
    sender.open(Receivers(servers))
    sender.send(watched())
    check(servers, 1)


def test_the_own_address_is_the_one_on_the_route_to_the_servers():
    assert address_towards(["http://127.0.0.1:8000"]) == "127.0.0.1"
    assert address_towards(["http://127.0.0.1:8000", "http://127.0.0.1:9"]) == "127.0.0.1"
