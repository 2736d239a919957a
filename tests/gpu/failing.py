"""Sections of the tests alone: one that works, one that fails, one that never ends and has started a process."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.gpu.bench import Bench


def works(bench: Bench) -> None:
    bench.row("worked", "yes")


def fails(bench: Bench) -> None:
    bench.row("half", "done")
    raise RuntimeError("CUDA error: an illegal memory access\nand more")


def hangs(bench: Bench) -> None:
    program = "import signal; print('waits', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        bench.row("child", str(child.pid))
        signal.pause()
