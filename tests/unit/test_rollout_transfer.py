"""The parts of a refit that need no engine: tensors in a segment, batches, arguments of vLLM's CUDA engines."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import httpx
import pytest
import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.carriers import shared_memory
from alphamed_nemo.rollout.carriers.cuda import address_towards, batches, cuda_sender
from alphamed_nemo.rollout.carriers.shared_memory import SharedMemorySender
from alphamed_nemo.rollout.connection import Connection
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest

NOTHING = Manifest({}, "float32")


class Receiver(SharedMemorySender):
    """A sender whose update is read back here from the segment's file, as the engine reads it in its process."""

    def __init__(self) -> None:
        super().__init__(Connection("http://127.0.0.1:9", "", 1.0, 0))
        self.descriptor = os.memfd_create("test")
        self.tensors: list[list] = []

    def _update(self, tensors: list[list], **flags: bool) -> None:
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


def test_batches_are_bounded_and_complete():
    weights = [(f"w{i}", torch.zeros(i)) for i in range(1, 12)]
    found = list(batches(iter(weights), batch_bytes=40))
    assert [name for batch in found for name, _ in batch] == [name for name, _ in weights]
    assert all(len(batch) == 1 or sum(tensor.numel() * 4 for _, tensor in batch) <= 40 for batch in found)
    assert list(batches(iter([]), 40)) == []


def test_ipc_with_a_tensor_parallel_server_is_refused():
    connection = Connection("http://127.0.0.1:9", "", 1.0, 0)
    with pytest.raises(ValueError, match="rollout.tensor=2"):
        cuda_sender("ipc", connection, RolloutConfig(tensor=2), NOTHING)
    with pytest.raises(ValueError, match="rollout.engines=8"):
        cuda_sender("ipc", connection, RolloutConfig(engines=8), NOTHING)
    with pytest.raises(ValueError, match="rollout.transfer: nccl needs CUDA"):
        WeightTransfer("http://127.0.0.1:9", "", RolloutConfig(transfer="nccl"), NOTHING, cuda=False)


def test_a_colocated_server_sleeps_while_the_trainer_works_and_wakes_around_the_new_weights(monkeypatch):
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path + (f"?{request.url.query.decode()}" if request.url.query else ""))
        return httpx.Response(200, json={"weight_version": "3"} if request.url.path == "/weight_info" else {})

    transfer = WeightTransfer("http://127.0.0.1:9", "", RolloutConfig(transfer="ipc"), NOTHING, cuda=True)
    transfer.connection._pool = transfer.connection._fresh = httpx.Client(
        base_url="http://127.0.0.1:9", transport=httpx.MockTransport(answer)
    )
    transfer.make_room()
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


def test_the_own_address_is_the_one_on_the_route_to_the_server():
    assert address_towards("http://127.0.0.1:8000") == "127.0.0.1"
