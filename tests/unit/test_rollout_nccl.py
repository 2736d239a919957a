"""The trainer's end of NCCL, on stand-ins for CUDA's streams and vLLM's communicator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from alphamed_nemo.rollout.carriers.nccl import NcclGroup


class Stream:
    def __init__(self, device: int) -> None:
        self.device, self.waiting = device, 0

    def synchronize(self) -> None:
        self.waiting = 0


class Communicator:
    """Its `broadcast` returns as soon as it is queued, on the current stream unless told another."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.alive = True

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Stream | None = None) -> None:
        assert src == 0
        (stream or torch.cuda.current_stream()).waiting += 1
        self.sent.append(tensor)

    def destroy(self) -> None:
        self.alive = False


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The stream that the trainer computes on, which has work of its own."""
    current = [Stream(0)]

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    current[0].waiting = 1
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    return current[0]


def test_a_bucket_is_sent_on_a_stream_of_its_own_and_has_arrived_when_that_returns(default: Stream) -> None:
    communicator, bucket = Communicator(), torch.arange(5, dtype=torch.uint8)
    group = NcclGroup(communicator, device=3)
    group.broadcast(bucket)
    assert communicator.sent == [bucket]
    assert (group.stream.device, group.stream.waiting) == (3, 0)
    assert default.waiting == 1  # neither added to nor waited for
    group.destroy()
    assert not communicator.alive
