"""A server that shares the trainer's GPUs starts when their memory is free, and one that shares none at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alphamed_nemo.rollout.inside_vllm.room import ROOM, wait_for_room


def test_a_start_waits_until_each_gpu_has_the_share_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOM, "0.85")
    seen = iter([[(10, 100), (90, 100)], [(90, 100), (84, 100)], [(85, 100), (90, 100)]])
    waits: list[float] = []
    wait_for_room(lambda: iter(next(seen)), waits.append)
    assert len(waits) == 2 and next(seen, None) is None


def test_a_server_on_gpus_of_its_own_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROOM, raising=False)
    looked: list[bool] = []
    waits: list[float] = []

    def memory() -> Iterator[tuple[int, int]]:
        looked.append(True)
        yield 0, 100

    wait_for_room(memory, waits.append)
    assert looked == [] and waits == []
