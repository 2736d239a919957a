"""Several rollout servers, of which some are lost: the same samples, from whoever is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from alphamed_nemo.rollout import pool as rollout_pool
from alphamed_nemo.rollout.connection import connect
from alphamed_nemo.rollout.dealing import Dealer
from alphamed_nemo.rollout.pool import RolloutError, RolloutLost, RolloutPool
from alphamed_nemo.rollout.sampling import Request, Sampling
from alphamed_nemo.rollout.types import Rollout
from tests.stand_in_vllm import StandIn, settings, stand_ins

COMPLETIONS = "/v1/completions"
PROMPTS = [[1, 10 + i] for i in range(40)]


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with stand_ins(4) as servers:
        yield servers


def pool_of(servers: list[StandIn], **rollout: object) -> RolloutPool:
    cfg = settings(servers, **rollout)
    return RolloutPool(connect(cfg), cfg)


def sample(pool: RolloutPool, seed: int = 5) -> list[list[Rollout]]:
    return pool.generate(PROMPTS, n=3, max_new_tokens=9, seed=seed)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_batch_is_the_same_whatever_the_number_of_servers(servers: list[StandIn], count: int) -> None:
    assert sample(pool_of(servers[:count])) == sample(pool_of(servers[:1]))
    assert len(servers[0].sampled) > len(PROMPTS)  # alone, and a share
    assert sum(len(server.sampled) for server in servers[1:]) + len(servers[0].sampled) == 2 * len(PROMPTS)


def answered(*lengths: int) -> list[list[Rollout]]:
    return [[Rollout([1], [5] * length, [-1.0] * length, 0, False, "") for length in lengths]]


def test_a_request_goes_where_the_fewest_expected_tokens_are_under_way() -> None:
    clients = [SimpleNamespace(connection=SimpleNamespace(lost=""), name=name) for name in "abc"]
    dealer = Dealer(clients)
    sampling = Sampling(n=2, max_new_tokens=100)
    small, large = Request(0, [[1] * 10], 1), Request(1, [[1] * 300], 2)
    with dealer.server(large, sampling) as first, dealer.server(small, sampling) as second:
        assert (first.name, second.name) == ("a", "b")
        assert dealer.under_way == [300 + 2 * 100, 10 + 2 * 100, 0]  # as long as they may be
        with dealer.server(small, sampling) as third, dealer.server(small, sampling) as fourth:
            assert third.name == "c" and fourth.name in "bc"
    dealer.learn(answered(10, 30))
    with dealer.server(small, sampling):
        assert dealer.under_way == [10 + 2 * 20, 0, 0]  # as long as they were
    assert dealer.under_way == [0, 0, 0]
    for _ in range(300):
        dealer.learn(answered(60))
    assert dealer.mean_length == pytest.approx(60, abs=1)  # it follows the policy
    clients[1].connection.lost = "gone"
    with dealer.server(small, sampling) as one, dealer.server(small, sampling) as other:
        assert {one.name, other.name} == {"a", "c"}
    clients[0].connection.lost = clients[2].connection.lost = "gone, too"
    with pytest.raises(RolloutLost, match="gone, too; gone; gone, too"), dealer.server(small, sampling):
        pass


@pytest.mark.parametrize("lost_at", [1, 4])
def test_a_lost_server_costs_its_own_requests(servers: list[StandIn], lost_at: int, caplog) -> None:
    expected = sample(pool_of(servers[2:3]))
    pool = pool_of(servers[:2], max_num_seqs=4)  # four requests under way at once
    servers[1].lose_at = {COMPLETIONS: lost_at}
    with caplog.at_level(logging.WARNING):
        assert sample(pool) == expected
    assert len(servers[1].sampled) == lost_at - 1
    assert len(servers[0].sampled) == len(PROMPTS) - len(servers[1].sampled)  # none of the others' was asked again
    said = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"rollout server {servers[1].url} is lost: ")
    assert [client.connection.url for client in pool.serving] == [servers[0].url]


def test_a_server_that_is_lost_after_its_last_answer_costs_nothing(servers: list[StandIn]) -> None:
    expected = sample(pool_of(servers[2:3]))
    servers[1].lose_at = {"/weight_info": 2}  # after the batch
    pool = pool_of(servers[:2])
    assert sample(pool) == expected
    assert len(pool.serving) == 1


def test_what_another_start_of_a_server_samples_is_not_taken(servers: list[StandIn]) -> None:
    """It has the weights of its folder, whatever the trainer put there before."""
    for server in servers[:3]:
        server.version = "7"
    expected = sample(pool_of(servers[2:3]))
    restarted = servers[1]
    answer = restarted.answer

    def restarting(path: str, body: dict):
        if path == COMPLETIONS and len(restarted.sampled) == 3 and restarted.start == 1:
            restarted.back()
        return answer(path, body)

    restarted.answer = restarting
    pool = pool_of(servers[:2], max_num_seqs=4)
    pool.version = 7
    assert sample(pool) == expected
    assert restarted.start == 2 and [client.connection.url for client in pool.serving] == [servers[0].url]
    assert "another server was started in its place" in pool.clients[1].connection.lost
    assert sample(pool) == expected  # until it is refitted, it is left out
    assert len(pool.serving) == 1


def test_a_lost_server_that_nobody_refits_serves_again_once_it_is_back(servers: list[StandIn], monkeypatch) -> None:
    monkeypatch.setattr(rollout_pool, "LOOK_EVERY_S", 0.0)
    expected = sample(pool_of(servers[2:3]))
    servers[1].lose_at = {COMPLETIONS: 2}
    pool = pool_of(servers[:2], max_num_seqs=4)
    stream = pool.stream(PROMPTS, n=3, max_new_tokens=9, seed=5)
    found = [next(stream) for _ in range(10)]
    while not servers[1].lost:
        found.append(next(stream))
    servers[1].back()
    before = len(servers[1].sampled)
    found += stream
    assert [group for _, group in sorted(found)] == expected
    assert len(pool.serving) == 2 and len(servers[1].sampled) > before


def test_only_when_all_servers_are_lost_the_batch_is(servers: list[StandIn]) -> None:
    servers[0].lose_at, servers[1].lose_at = {COMPLETIONS: 3}, {COMPLETIONS: 5}
    pool = pool_of(servers[:2])
    with pytest.raises(RolloutLost, match=f"(?s){servers[0].url}.*{servers[1].url}"):
        sample(pool)
    with pytest.raises(RolloutLost):
        pool.weight_version()
    servers[1].back()
    assert pool.weight_version() == 0 and len(pool.serving) == 1


def test_a_server_with_other_weights_is_left_out(servers: list[StandIn]) -> None:
    servers[0].version = servers[2].version = "3"
    pool = pool_of(servers[:3])
    assert {rollout.weight_version for group in sample(pool) for rollout in group} == {3}
    assert servers[1].sampled == [] and "it serves weight version 0, expected 3" in pool.clients[1].connection.lost
    pool = pool_of(servers[:3])
    pool.version = 4
    with pytest.raises(RolloutLost, match="it serves weight version 3, expected 4"):
        sample(pool)


def test_weights_that_change_while_a_batch_is_sampled_are_an_error(servers: list[StandIn]) -> None:
    pool = pool_of(servers[:2])
    stream = pool.stream(PROMPTS, max_new_tokens=4, seed=1)
    next(stream)
    servers[1].version = "5"
    with pytest.raises(RolloutError, match="weights changed from version 0 to 5 while 40 prompts sampled") as error:
        list(stream)
    assert not isinstance(error.value, RolloutLost)
