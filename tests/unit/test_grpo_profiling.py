"""Traces of the steps that are named, and of no others."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from alphamed_nemo.grpo import profiling


def test_a_named_step_leaves_its_trace_and_others_leave_none(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    for step in (1, 2, 3):
        with profiling.profiled(step, [2], folder):
            torch.ones(4, 4) @ torch.ones(4, 4)
    (written,) = folder.iterdir()
    assert written.name == "step_2.json.gz"
    events = json.loads(gzip.decompress(written.read_bytes()))["traceEvents"]
    assert "aten::mm" in {event.get("name") for event in events}


def test_under_nsys_the_step_is_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = []

    @contextmanager
    def a_range():
        ranges.append("started")
        yield
        ranges.append("stopped")

    monkeypatch.setenv(profiling.UNDER_NSYS, "1")
    monkeypatch.setattr(torch.cuda.profiler, "profile", a_range)
    for step in (1, 2):
        with profiling.profiled(step, [2], tmp_path / "traces"):
            ranges.append(f"step {step}")
    assert ranges == ["step 1", "started", "step 2", "stopped"] and not (tmp_path / "traces").exists()
