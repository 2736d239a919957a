"""An update that the trainer gives up midway: what was sent is loaded before anything else is asked of a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alphamed_nemo.rollout.carriers import ipc
from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender
from alphamed_nemo.rollout.carriers.ipc import IpcSender, Lockstep
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest

SHAPES = {f"layer {n}": (4, 4) for n in range(4)}
BUCKET_BYTES = 4 * 4 * 4  # one weight
LOADS_S = 0.3


class SlowLoader:
    """A server that takes its time over each bucket."""

    url, lost, instance = "http://127.0.0.1:9", "", None

    def __init__(self) -> None:
        self.loading = 0
        self.loaded = 0

    def call(self, method: str, path: str, waiting_for: str, *, answer: Any = dict, **request: Any) -> Any:
        if path == "/get_world_size":
            return answer(world_size=1)
        if path == "/update_weights" and request["json"]["update_info"]["names"]:
            self.loading += 1
            time.sleep(LOADS_S)
            self.loading -= 1
            self.loaded += 1
        return {}


def refused() -> Iterator[tuple[str, torch.Tensor]]:
    yield "layer 0", torch.zeros(4, 4)
    yield "layer 1", torch.zeros(4, 4)
    raise RolloutError("another shape")


class Anywhere:
    """A transport without anyone to carry to."""

    bucket_bytes, init_info = BUCKET_BYTES, {}

    def join(self, *_: Any) -> Any:
        return SimpleNamespace(broadcast=lambda bucket: None, destroy=lambda: None)


@pytest.mark.parametrize("carrier", ["broadcast", "ipc"])
def test_what_was_sent_is_loaded_before_the_update_is_given_up(monkeypatch: pytest.MonkeyPatch, carrier: str) -> None:
    manifest, server = Manifest(SHAPES, "float32"), SlowLoader()
    monkeypatch.setattr(ipc, "BUCKET_BYTES", BUCKET_BYTES)
    monkeypatch.setattr(ipc, "ipc_handles", lambda flat: {})
    sender = BroadcastSender(manifest, Anywhere()) if carrier == "broadcast" else IpcSender(manifest, Lockstep(None))
    sender.open(Receivers([server]))
    with pytest.raises(RolloutError, match="another shape"):
        sender.send(refused())
    assert (server.loading, server.loaded > 0) == (0, True)
