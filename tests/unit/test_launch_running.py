"""Working or hanging: a server that does not answer is judged by what its processes compute meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from alphamed_nemo.launch import health, running
from alphamed_nemo.launch.components import Component
from alphamed_nemo.launch.running import LONGEST_WORK, Running

LIMIT_S = 60.0


class World:
    """The clock and the processes' seconds of CPU, moved by hand."""

    now = 1000.0
    used_s = 500.0

    def monotonic(self) -> float:
        return self.now

    def passes(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.used_s += share * seconds


class Silent:
    """A question without an answer."""

    status = None
    silent = True

    def __init__(self, asked: float) -> None:
        self.asked = asked


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    for module in (health, running):
        monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(health, "computed_s", lambda _pids: made.used_s)
    return made


@pytest.fixture
def silent(world: World) -> Iterator[Callable[[], bool]]:
    """A server that was ready and is silent from now on; returns whether it hangs."""
    component = Component("vllm", [], health="http://127.0.0.1:9/health", silent_within_s=LIMIT_S)
    process = subprocess.Popen([sys.executable, "-IS", "-c", "input()"], stdin=subprocess.PIPE)
    server = Running(component, process, ready=True, proven=True)
    server.question = Silent(world.now)
    start = world.now

    def hangs() -> bool:
        server.hear()
        return server.hangs(world.now - start)

    hangs()
    yield hangs
    process.communicate(b"\n")


def test_one_that_hardly_computes_hangs_after_the_limit(world: World, silent) -> None:
    world.passes(LIMIT_S - 1, share=0.02)
    assert not silent()
    world.passes(2, share=0.02)  # an idle vLLM
    assert silent()


def test_one_that_computes_is_waited_for_and_says_so_once(world: World, silent, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            world.passes(LIMIT_S + 1, share=0.12)
            assert not silent()
    (said,) = caplog.messages
    assert "has not answered for 61 s, but its processes have computed for 7 s meanwhile" in said
    world.passes(LIMIT_S + 1, share=0.0)  # and then it hangs
    assert silent()


def test_one_that_computes_forever_hangs_in_the_end(world: World, silent) -> None:
    for _ in range(LONGEST_WORK - 1):
        world.passes(LIMIT_S + 1, share=1.0)
        assert not silent()
    world.passes(LIMIT_S + 1, share=1.0)
    assert silent()


def test_seconds_of_cpu_are_those_that_the_processes_have_used() -> None:
    before = os.times()
    found = health.computed_s([os.getpid(), 2**22 + 1])  # the second has gone
    after = os.times()
    assert before.user + before.system - 0.02 <= found <= after.user + after.system + 0.02
