"""The sections of the program, what each is given, and how one is run."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bench:
    """
    Attributes:
        section: its name.
        dry: on a CPU, at tiny sizes.
        out: the table.
        folder: the section's own, for temporary files.
    """

    section: str
    dry: bool
    out: Path
    folder: Path

    def row(self, what: str, value: str) -> None:
        """Adds a line to the table, on the disk at once: what comes next may take the machine with it."""
        line = f"| {self.section} | {what} | {value} |"
        print(line, flush=True)
        with self.out.open("a") as table:
            table.write(f"{line}\n")
            table.flush()
            os.fsync(table.fileno())


@dataclass(frozen=True)
class Section:
    """A function of `tests/gpu/<module>.py` of the section's name, and its time limit."""

    module: str
    name: str
    limit_s: float

    def function(self) -> Callable[[Bench], None]:
        return getattr(importlib.import_module(self.module), self.name)


def _sections(**found: tuple[str, int]) -> dict[str, Section]:
    return {name: Section(f"tests.gpu.{module}", name, limit) for name, (module, limit) in found.items()}


SECTIONS = _sections(
    machine=("machine", 60),
    collectives=("machine", 90),
    local_layers=("layers", 120),
    vocabulary=("layers", 60),
    float32_head=("layers", 60),
    checkpoint_and_resume=("state", 240),
    cuda_ipc=("memory", 90),
    offload=("memory", 120),
    transformer_engine=("layers", 240),
    train_speed=("speed", 480),
    grpo=("speed", 120),
)


def run(context: BaseContext, bench: Bench, section: Section) -> bool:
    """One section; whether it ended well within its time."""
    started = time.monotonic()
    start: Any = context
    process = start.Process(target=in_own_process, args=(bench, section))
    process.start()
    process.join(section.limit_s)
    if process.is_alive():
        with suppress(ProcessLookupError):  # it has not come so far as to have a group
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        bench.row("stopped", f"after its limit of {section.limit_s} s")
        return False
    bench.row("section took", f"{time.monotonic() - started:.0f} s")
    return process.exitcode == 0


def in_own_process(bench: Bench, section: Section) -> None:
    os.setpgid(0, 0)  # with what it starts
    try:
        bench.folder.mkdir()
        section.function()(bench)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        bench.row("FAILED", f"{type(error).__name__}: {lines[0][:200]}")
        traceback.print_exc()
        sys.exit(1)
