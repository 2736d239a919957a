"""The parts of a refit that need no engine: pieces in a segment, batches, arguments of vLLM's CUDA engines."""

from __future__ import annotations

import mmap
from pathlib import Path

import httpx
import pytest
import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.connection import Connection, RolloutError
from alphamed_nemo.rollout.cuda_transfer import address_towards, batches, cuda_sender
from alphamed_nemo.rollout.transfer import SharedMemorySender, WeightTransfer, create_segment


class Receiver(SharedMemorySender):
    """A sender whose updates are read back from the segment here, as the engine reads them in its process."""

    def __init__(self, segment_bytes: int) -> None:
        super().__init__(Connection("http://127.0.0.1:9", "", 1.0, 0), segment_bytes)
        self.segment = mmap.mmap(-1, segment_bytes)
        self.tensors: dict[str, tuple[str, list[int], bytearray]] = {}
        self.calls: list[dict] = []

    def _update(self, pieces: list[list], **flags: bool) -> None:
        self.calls.append(flags)
        for name, dtype, shape, start, at, length in pieces:
            raw = self.tensors.setdefault(name, (dtype, shape, bytearray()))[2]
            assert len(raw) == start
            raw += self.segment[at : at + length]


@pytest.mark.parametrize("segment_bytes", [7, 64, 4096])
def test_every_tensor_arrives_whole_whatever_the_segment_holds(segment_bytes: int):
    weights = {
        "matrix": torch.randn(7, 5),
        "half": torch.randn(9, 3).bfloat16(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "view": torch.randn(6, 4).t(),
    }
    receiver = Receiver(segment_bytes)
    size = receiver.send(iter(weights.items()))
    assert size == sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    assert [call.get("commit", False) for call in receiver.calls] == [False] * (len(receiver.calls) - 1) + [True]
    assert list(receiver.tensors) == list(weights)
    for name, (dtype, shape, raw) in receiver.tensors.items():
        assert shape == list(weights[name].shape)
        if raw:
            found = torch.frombuffer(raw, dtype=getattr(torch, dtype)).view(shape)
            assert torch.equal(found, weights[name])


def test_a_segment_that_does_not_fit_is_an_error_and_leaves_no_file():
    before = set(Path("/dev/shm").glob("alphamed-refit-*"))
    with pytest.raises(RolloutError, match="no room for"):
        create_segment(1 << 50)
    assert set(Path("/dev/shm").glob("alphamed-refit-*")) == before


def test_batches_are_bounded_and_complete():
    weights = [(f"w{i}", torch.zeros(i)) for i in range(1, 12)]
    found = list(batches(iter(weights), batch_bytes=40))
    assert [name for batch in found for name, _ in batch] == [name for name, _ in weights]
    assert all(len(batch) == 1 or sum(tensor.numel() * 4 for _, tensor in batch) <= 40 for batch in found)
    assert list(batches(iter([]))) == []


def test_ipc_with_a_tensor_parallel_server_is_refused():
    connection = Connection("http://127.0.0.1:9", "", 1.0, 0)
    with pytest.raises(ValueError, match="rollout.tensor=2"):
        cuda_sender("ipc", connection, RolloutConfig(tensor=2))
    with pytest.raises(ValueError, match="rollout.transfer: nccl needs CUDA"):
        WeightTransfer("http://127.0.0.1:9", "", RolloutConfig(transfer="nccl"), cuda=False)


def test_a_colocated_server_sleeps_while_the_trainer_works_and_wakes_around_the_new_weights(monkeypatch):
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path + (f"?{request.url.query.decode()}" if request.url.query else ""))
        return httpx.Response(200, json={"weight_version": "3"} if request.url.path == "/weight_info" else {})

    transfer = WeightTransfer("http://127.0.0.1:9", "", RolloutConfig(transfer="ipc"), cuda=True)
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
