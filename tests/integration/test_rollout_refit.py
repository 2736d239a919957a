"""A refit changes what the server samples from to exactly the weights that were sent, or changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alphamed_nemo.rollout import refit
from alphamed_nemo.rollout.carriers import shared_memory
from alphamed_nemo.rollout.check import check_served_weights
from alphamed_nemo.rollout.pool import RolloutError, RolloutPool
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest, read_manifest
from tests.integration.conftest import ServedModel

IDS = [1, *range(30, 130)]  # three blocks of the key-value cache, so that the prefix cache has something to keep


def load(path: Path, changed_by: float = 0.0, seed: int = 0):
    """The served folder's model, with seeded noise on every weight."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += changed_by * torch.randn(weight.shape, generator=generator)
    return model


def logprobs(model, ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids])).logits[0, :-1]
    model.float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1).tolist()


@pytest.fixture
def pool(rollout_server: ServedModel) -> RolloutPool:
    return rollout_server.pool()


@pytest.fixture
def transfer(rollout_server: ServedModel) -> Iterator[WeightTransfer]:
    """A transfer to the shared server, which gets its first weights back afterwards."""
    manifest = replace(read_manifest(rollout_server.path), dtype="float32")
    transfer = WeightTransfer(rollout_server.connections(), rollout_server.cfg.rollout, manifest)
    yield transfer
    transfer.refit(load(rollout_server.path).named_parameters(), version=0)
    transfer.close()


def test_a_refit_serves_the_new_weights_under_their_version(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    new = load(rollout_server.path, changed_by=0.02)
    check_served_weights(pool, [(IDS, logprobs(load(rollout_server.path), IDS))], 1e-5)
    stats = transfer.refit(new.named_parameters(), version=7)
    assert stats.bytes == sum(weight.numel() * 4 for weight in new.parameters())
    assert stats.tensors == len(list(new.parameters()))
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], 1e-5)
    assert pool.weight_version() == 7
    (group,) = pool.generate([IDS], n=2, max_new_tokens=6, seed=1)
    assert {rollout.weight_version for rollout in group} == {7}


def test_sampling_after_a_refit_does_not_read_the_old_weights_prefix_cache(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    pool.generate([IDS], n=2, max_new_tokens=2)  # fills the cache with the old weights' keys and values
    new = load(rollout_server.path, changed_by=0.02, seed=2)
    transfer.refit(new.named_parameters(), version=1)
    (group,) = pool.generate([IDS], n=2, max_new_tokens=6, seed=1)
    for rollout in group:
        expected = logprobs(new, IDS + rollout.response_ids.tolist())[len(IDS) - 1 :]
        assert rollout.logprobs.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_segment_that_grows_or_is_another_one_is_mapped_anew(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared_memory, "GROWTH", 8192)  # the embedding alone is 128 KiB
    for seed in (3, 4):
        transfer.sender.close()  # a trainer that was started again
        some = list(load(rollout_server.path, changed_by=0.02).named_parameters())[:3]
        with pytest.raises(RolloutError, match="missing"):
            transfer.refit(iter(some), version=96)
        new = load(rollout_server.path, changed_by=0.02, seed=seed)
        transfer.refit(new.named_parameters(), version=seed)
        check_served_weights(pool, [(IDS, logprobs(new, IDS))], 1e-5)


def test_a_tensor_beyond_the_segment_is_refused_and_the_old_weights_serve(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer, monkeypatch: pytest.MonkeyPatch
):
    update = transfer.sender._update

    def beyond(tensors: list[list]) -> None:
        update([[*rest, start + (1 << 40)] for *rest, start in tensors])

    monkeypatch.setattr(transfer.sender, "_update", beyond)
    with pytest.raises(RolloutError, match="lies at bytes"):
        transfer.refit(load(rollout_server.path, changed_by=0.02).named_parameters(), version=95)
    monkeypatch.undo()
    check_served_weights(pool, [(IDS, logprobs(load(rollout_server.path), IDS))], 1e-5)


def broken_updates() -> dict[str, tuple]:
    """What is wrong with an update → (how it is spoilt, what the refusal says)."""
    name, other = "model.layers.1.mlp.down_proj.weight", "model.norm.weight"
    return {
        "missing": (lambda w: [x for x in w if x[0] != name], f"1 missing: {name}"),
        "unexpected": (lambda w: [*w, ("model.layers.2.bias", torch.zeros(3))], "1 unexpected: model.layers.2.bias"),
        "duplicate": (lambda w: [*w, (other, torch.zeros(64))], f"1 duplicate: {other}"),
        "dtype": (
            lambda w: [(n, t.double() if n == name else t) for n, t in w],
            f"1 of another dtype: {name} float64, expected float32",
        ),
        "shape": (lambda w: [(n, t[:, :-1] if n == name else t) for n, t in w], r"64, 127\), expected \(64, 128\)"),
    }


class Unchecked:
    """A trainer that sends whatever comes."""

    def __init__(self, weights: Iterator, manifest: Manifest) -> None:
        self.weights, self.count = weights, 0

    def __iter__(self) -> Iterator:
        return iter(self.weights)


@pytest.mark.parametrize("kind", list(broken_updates()))
def test_an_incomplete_or_wrong_update_is_refused_and_the_old_weights_serve(
    rollout_server: ServedModel,
    pool: RolloutPool,
    transfer: WeightTransfer,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
):
    spoil, message = broken_updates()[kind]
    old = load(rollout_server.path)
    version = pool.weight_version()
    weights = spoil(list(load(rollout_server.path, changed_by=0.02).named_parameters()))
    for checked_by in ("trainer", "engine"):
        if checked_by == "engine":
            monkeypatch.setattr(refit, "_Checked", Unchecked)
        with pytest.raises(RolloutError, match=message):
            transfer.refit(iter(weights), version=99)
        check_served_weights(pool, [(IDS, logprobs(old, IDS))], 1e-5)
        assert pool.weight_version() == version
    (group,) = pool.generate([IDS], max_new_tokens=4)  # the engine is not left paused
    assert len(group) == 1


def test_an_error_in_the_trainer_ends_the_update_and_the_next_refit_works(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    def failing():
        yield from list(load(rollout_server.path, changed_by=0.02).named_parameters())[:3]
        raise ZeroDivisionError("in the trainer")

    with pytest.raises(ZeroDivisionError, match="in the trainer"):
        transfer.refit(failing(), version=98)
    check_served_weights(pool, [(IDS, logprobs(load(rollout_server.path), IDS))], 1e-5)
    new = load(rollout_server.path, changed_by=0.02, seed=4)
    transfer.refit(new.named_parameters(), version=3)
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], 1e-5)


def test_an_update_that_never_arrived_is_caught(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    """The trainer has moved by one small step; the server still holds the weights before it."""
    moved = load(rollout_server.path, changed_by=1e-3)
    with pytest.raises(RolloutError, match="it holds other weights"):
        check_served_weights(pool, [(IDS, logprobs(moved, IDS))], 1e-5)
    transfer.refit(moved.named_parameters(), version=4)
    assert check_served_weights(pool, [(IDS, logprobs(moved, IDS))], 1e-5) < 1e-5


def test_a_refit_ends_the_update_that_a_dead_trainer_left_open(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    receivers = Receivers(transfer.connections)
    transfer.sender.open(receivers)
    receivers.call("POST", "/start_weight_update", "a start")
    transfer.sender.close()
    new = load(rollout_server.path, changed_by=0.02, seed=5)
    transfer.refit(new.named_parameters(), version=6)
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], 1e-5)


def test_finishing_without_an_update_is_an_error_and_leaves_the_version(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    version = pool.weight_version()
    transfer.sender.send = lambda weights: 0  # a carrier that loses everything
    with pytest.raises(RolloutError, match="the weights have not changed"):
        transfer.refit(iter([]), version=97)
    assert pool.weight_version() == version
    del transfer.sender.send


def test_weights_that_change_while_rollouts_are_drawn_are_noticed(
    rollout_server: ServedModel, pool: RolloutPool, transfer: WeightTransfer
):
    stream = pool.stream([[1, 40 + i] for i in range(8)], max_new_tokens=4)
    next(stream)
    transfer.refit(load(rollout_server.path, changed_by=0.02).named_parameters(), version=5)
    with pytest.raises(RolloutError, match="weights changed from version 0 to 5"):
        list(stream)
