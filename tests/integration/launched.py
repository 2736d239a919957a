"""Components for the launcher's tests, and what is still there of their processes."""

from __future__ import annotations

import json
import os
import select
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest

from alphamed_nemo.launch.components import Component, free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 180  # for what should take seconds


def script(name: str, code: str, **settings) -> Component:
    return Component(name, [sys.executable, "-c", code], **settings)


def family(name: str = "family", **settings) -> Component:
    port = free_port()
    argv = [sys.executable, "-m", "tests.integration.launch_family", str(port)]
    env = {"PYTHONPATH": str(ROOT)}
    return Component(name, argv, env, f"http://127.0.0.1:{port}/health", LIMIT_S, **{"grace_s": 5, **settings})


def family_pids(component: Component) -> list[int]:
    return json.loads(urllib.request.urlopen(component.health).read())


def end_family(component: Component) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(component.health.replace("/health", "/end"))


def gone_within(pids: Iterable[int], limit_s: float) -> bool:
    """Waits for processes that are not our children, without polling."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], limit_s)[0]:
                return False
        finally:
            os.close(handle)
    return True
