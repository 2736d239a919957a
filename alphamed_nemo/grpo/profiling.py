"""Traces of single steps, for torch's own viewer or for Nsight Systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from alphamed_nemo.config.run_folder import step_name

UNDER_NSYS = "NSYS_PROFILING_SESSION_ID"  # nsys sets it for what it starts


@contextmanager
def profiled(step: int, steps: list[int], folder: Path) -> Iterator[None]:
    """Records what this process does in the block, where `step` is one of `steps`: operators, kernels and their times,
    as `step_<n>.json.gz` for Perfetto or chrome://tracing.

    Under `nsys profile --capture-range=cudaProfilerApi` nothing is written here; the block is nsys's range. It and
    torch's profiler cannot both have the GPU's counters.

    Args:
        folder: made where it is missing.
    """
    if step not in steps:
        yield
        return
    if os.environ.get(UNDER_NSYS):
        with torch.cuda.profiler.profile():
            yield
        return
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as trace:
        yield
    folder.mkdir(exist_ok=True)
    trace.export_chrome_trace(str(folder / step_name(step, ".json.gz")))
