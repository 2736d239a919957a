"""What the fork server has imported is no work and no memory for the ranks that come from it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from alphamed_nemo.launch.components import free_port

ROOT = Path(__file__).resolve().parents[2]


def main(out: str) -> None:
    """One rank of the test."""
    Path(out, os.environ["RANK"]).write_text(f"{gc.get_freeze_count()} {len(gc.get_objects())} {gc.isenabled()}")


def test_the_collector_passes_over_what_ranks_share(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alphamed_nemo.launch.ranks", "2", str(free_port()), main.__module__, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in "01":
        frozen, looked_through, enabled = (tmp_path / rank).read_text().split()
        assert int(frozen) > 10 * int(looked_through) and enabled == "True"
