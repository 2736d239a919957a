"""The parts of a refit that need no engine: tensors in a segment, buckets, sleep and wake."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import pytest
import torch
from urllib3 import HTTPConnectionPool, HTTPResponse

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout import refit
from alphamed_nemo.rollout.carriers import shared_memory
from alphamed_nemo.rollout.carriers.buckets import buckets
from alphamed_nemo.rollout.carriers.shared_memory import SharedMemorySender
from alphamed_nemo.rollout.connection import Connection, RolloutLost
from alphamed_nemo.rollout.inside_vllm.instance import INSTANCE
from alphamed_nemo.rollout.refit import WeightTransfer, put_to_sleep
from alphamed_nemo.rollout.update_manifest import Manifest

NOTHING = Manifest({}, "float32")


class Receiver(SharedMemorySender):
    """A sender whose update is read back here from the segment's file, as the engine reads it in its process."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = os.memfd_create("test")
        self.tensors: list[list] = []

    def _update(self, tensors: list[list]) -> None:
        self.tensors = tensors

    def read(self) -> dict[str, torch.Tensor]:
        raw = mmap.mmap(self.descriptor, 0)
        found = {}
        for name, dtype_name, shape, start in self.tensors:
            dtype = getattr(torch, dtype_name)
            size = math.prod(shape) * dtype.itemsize
            found[name] = torch.frombuffer(bytearray(raw[start : start + size] or b"0"), dtype=torch.uint8)[:size]
            found[name] = found[name].view(dtype).view(shape)
        return found


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.randn(7, 5, generator=draw),
        "half": torch.randn(9, 3, generator=draw).bfloat16(),
        "scalar": torch.tensor(3.5 + seed),
        "empty": torch.zeros(0, 4),
        "view": torch.randn(6, 4, generator=draw).t(),
        "large": torch.randn(300, 41, generator=draw),
    }


@pytest.mark.parametrize("growth", [4096, 1 << 20])
def test_every_tensor_arrives_whole_however_often_the_segment_grows(monkeypatch, growth: int):
    monkeypatch.setattr(shared_memory, "GROWTH", growth)
    receiver = Receiver()
    for seed in range(2):  # the second update is written over the first
        sent = weights(seed)
        size = receiver.send(iter(sent.items()))
        assert size == sum(tensor.numel() * tensor.element_size() for tensor in sent.values())
        found = receiver.read()
        assert list(found) == list(sent)
        for name, tensor in sent.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert all(start % 64 == 0 for *_, start in receiver.tensors)


def test_a_closed_sender_leaves_no_segment_behind():
    def held() -> int:
        return Path("/proc/self/maps").read_text().count(f"memfd:{shared_memory.SEGMENT_NAME}")

    sender = Receiver()
    sender.descriptor = os.memfd_create(shared_memory.SEGMENT_NAME)
    sender.send(iter(weights().items()))
    assert held() == 1
    sender.close()
    assert held() == 0


def test_buckets_are_bounded_complete_and_none_is_cut_by_vllms_packing():
    weights = [(f"w{i}", torch.full((i % 9 + 1,), float(i))) for i in range(40)]
    found = list(buckets(iter(weights), bucket_bytes=20))
    assert [name for bucket in found for name in bucket.names] == [name for name, _ in weights]
    assert all(len(bucket.names) == 1 or sum(bucket.sizes) <= 20 for bucket in found)
    for bucket in found:
        size, broadcasts = 0, 0
        for nbytes in bucket.sizes:  # vLLM sends what it has once that exceeds the limit, and the rest at the end
            size += nbytes
            if size > 20:
                size, broadcasts = 0, broadcasts + 1
        assert broadcasts + (size > 0) == 1
        flat = torch.cat([tensor for name, tensor in weights if name in bucket.names])
        assert torch.equal(bucket.packed(), flat.view(torch.uint8))
    assert list(buckets(iter([]), 20)) == []


def test_a_weight_of_any_type_and_layout_travels_as_its_bytes():
    sent = weights()
    (bucket,) = buckets(iter(sent.items()), 2**30)
    for (name, tensor), piece in zip(sent.items(), bucket.packed().split(bucket.sizes), strict=True):
        assert torch.equal(piece.clone().view(tensor.dtype).view(tensor.shape), tensor), name
    assert bucket.info()["dtype_names"][:2] == ["float32", "bfloat16"]
    assert bucket.info()["shapes"][2:4] == [[], [0, 4]]


@pytest.mark.parametrize(("transfer", "cuda"), [("nccl", False), ("ipc", False), ("shm", True), ("gloo", True)])
def test_a_carrier_of_the_other_kind_of_host_is_refused(transfer, cuda):
    with pytest.raises(ValueError, match=f"rollout.transfer: {transfer} (needs CUDA|is for CPU hosts)"):
        WeightTransfer([], RolloutConfig(transfer=transfer), NOTHING, cuda=cuda)


def test_a_colocated_server_sleeps_while_the_trainer_works_and_wakes_around_the_new_weights(monkeypatch):
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    calls = []

    def answer(pool: object, method: str, path: str, headers: dict, **more: object) -> HTTPResponse:
        calls.append(path)
        return HTTPResponse(b'{"weight_version": "3"}' if path == "/weight_info" else b"{}", status=200)

    connection = Connection("http://127.0.0.1:9", "", 1.0, 0)
    transfer = WeightTransfer([connection], RolloutConfig(transfer="ipc"), NOTHING, cuda=True)
    connection._request = answer
    transfer.make_room(1.0)
    transfer.refit(iter([]), 3)  # the calls are the point, not the weights
    assert calls == [
        "/sleep?level=2",
        "/pause?mode=keep&clear_cache=true",
        "/wake_up?tags=weights",
        "/init_weight_transfer_engine",
        "/start_weight_update",
        "/update_weights",  # the announcement
        "/finish_weight_update",
        "/wake_up?tags=kv_cache",
        "/resume",
        "/weight_info",
    ]
    calls.clear()
    transfer.refit(iter([]), 3)
    assert not any("wake" in call for call in calls)


def test_a_server_that_is_being_started_again_sleeps_with_the_others_before_the_trainer_takes_memory(monkeypatch):
    # It would load while the trainer takes the same memory. The last of its first answers are those of its successor.
    monkeypatch.setattr(refit, "POLL_EVERY_S", 0.0)
    health, slept, start = iter([503, 503, 200]), [], {8: "first", 9: "first"}

    def answer(pool: HTTPConnectionPool, method: str, path: str, headers: dict, **more: object) -> HTTPResponse:
        assert pool.port is not None
        if path == "/health":
            return HTTPResponse(status=next(health))
        slept.append(pool.port)
        return HTTPResponse(b"{}", headers={INSTANCE: start[pool.port]}, status=200)

    connections = [Connection(f"http://127.0.0.1:{port}", "", 1.0, 0) for port in (8, 9)]
    for connection in connections:
        connection._request = answer
        connection.call("GET", "/weight_info", "the version")  # by which its start is known
    slept.clear()
    start[9] = "second"
    connections[1].lose("killed")
    put_to_sleep(connections, 60.0)
    assert slept == [8, 9] and next(health, None) is None and not connections[1].lost
    connections[1].lose("killed")
    monkeypatch.setattr(connections[1], "is_healthy", lambda: False)
    with pytest.raises(RolloutLost, match="before the update: killed; http://127.0.0.1:9 is not back"):
        put_to_sleep(connections, -1.0)
