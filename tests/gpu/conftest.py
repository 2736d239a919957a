"""The GPU tests run on one Hopper GPU in a few minutes and end with a table for docs/gpu.md."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Row = Callable[[str, str], None]
ROWS: list[tuple[str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent) and "without_a_gpu" not in item.name:
                item.add_marker(pytest.mark.skip(reason="needs a GPU; this machine has none"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    names = ("torch", "megatron-core", "transformer-engine-torch", "flash-attn", "vllm")
    versions = [f"{name} {version}" for name in names if (version := version_of(name))]
    terminalreporter.write_sep("=", f"{torch.cuda.get_device_name()}: {', '.join(versions)}")
    terminalreporter.write_line("| measured | |\n| --- | --- |")
    for what, value in ROWS:
        terminalreporter.write_line(f"| {what} | {value} |")


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@pytest.fixture
def row() -> Row:
    """Adds a line to the table."""
    return lambda what, value: ROWS.append((what, value))
