"""In a process of its own, with glibc's settings of a trainer rank."""

import json
import os
import subprocess
import sys

import pytest
import torch

from alphamed_nemo.launch.components import KEEP_FREED_MEMORY
from alphamed_nemo.policy.local.heap import SLACK, Heap

MB = 2**20

pytestmark = pytest.mark.skipif(not Heap().works, reason="about CPU hosts with glibc 2.33 or newer")


def run(program: str) -> list[float]:
    """What the program prints as JSON, in MB. It has `heap`, and `step(sizes)`, which takes tensors of so many MB."""
    head = """
import json, torch
from alphamed_nemo.policy.local.heap import Heap
MB, heap = 2**20, Heap()
def step(sizes, left=0):
    tensors = [torch.zeros(int(size * MB), dtype=torch.uint8) for size in sizes]
    small.append([torch.zeros(100) for _ in range(left)])  # lies behind them and stays
    heap.note()
    del tensors
    heap.step_ended()
    return heap.resident() / MB
small = []
"""
    env = os.environ | KEEP_FREED_MEMORY
    done = subprocess.run([sys.executable, "-c", head + program], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_is_freed_is_given_back_after_the_first_step_and_kept_from_then_on():
    first, second, third = run("print(json.dumps([step([10] * 20) for _ in range(3)]))")
    assert second - first > 190  # what the next step takes again
    assert abs(third - second) < 12  # one piece may not fit where it lay before


def test_steps_of_other_sizes_do_not_let_it_grow():
    found = run("print(json.dumps([step([10 + k, 40 - k, 20 + k, 130 - 2 * k], left=9) for k in range(40)]))")
    assert max(found) - found[0] < SLACK * 200 + 10


def test_loading_leaves_nothing_behind():
    program = """
before = heap.resident() / MB
tensors = [torch.zeros(30 * MB, dtype=torch.uint8) for _ in range(10)]
small = torch.zeros(100)
del tensors
kept = heap.resident() / MB
heap.give_back()
print(json.dumps([before, kept, heap.resident() / MB]))
"""
    before, kept, after = run(program)
    assert kept - before > 290 and after - before < 20


def test_a_heap_that_it_does_not_know_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    heap = Heap()
    heap.note()
    heap.step_ended()
    heap.give_back()
    assert not heap.works
