"""A wait in a group ends within its limit, and a group is never ended unnoticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alphamed_nemo.rollout.carriers import refit_group
from alphamed_nemo.rollout.carriers.refit_group import GROUP_ENDED, limited


class ByHand:
    """A timer that goes off when the test says so; `cancel` comes too late for it."""

    def __init__(self, seconds: float, function: Callable[[], None]) -> None:
        self.go_off = function
        made.append(self)

    def start(self) -> None:
        pass

    def cancel(self) -> None:
        pass


made: list[ByHand] = []


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[ByHand]:
    made.clear()
    monkeypatch.setattr(refit_group, "Timer", ByHand)
    return made


def test_a_group_in_which_nothing_arrives_is_destroyed_and_that_is_said(timers):
    ended: list[str] = []
    with pytest.raises(RuntimeError, match=f"{GROUP_ENDED}: nothing arrived within 5 s"):
        with limited(lambda: ended.append("destroyed"), 5.0):
            timers[0].go_off()
    assert ended == ["destroyed"]


def test_a_limit_that_is_over_as_the_work_ends_leaves_the_group(timers):
    """vLLM's NCCL returns at once from a broadcast in a group that was destroyed, with whatever its buffer holds."""
    ended: list[str] = []
    with limited(lambda: ended.append("destroyed"), 5.0):
        pass
    timers[0].go_off()
    assert ended == []
