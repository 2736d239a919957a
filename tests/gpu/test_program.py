"""`python -m tests.gpu`: its dry form here, and all of it where there is a GPU."""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.gpu.bench import SECTIONS, Bench, Section, run

ROOT = Path(__file__).resolve().parents[2]


def program(out: Path, *words: str) -> tuple[subprocess.CompletedProcess, list[tuple[str, str, str]]]:
    """The finished program, and the rows of its table."""
    command = [sys.executable, "-m", "tests.gpu", f"--out={out}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, re.findall(r"^\| (\w+) \| (.+) \| (.+) \|$", out.read_text(), re.MULTILINE)


def test_every_section_runs_dry_and_leaves_its_rows(tmp_path: Path) -> None:
    done, rows = program(tmp_path / "table.md", "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all sections passed" in done.stdout
    measured = {section for section, what, _ in rows if what != "section took"}
    assert measured == set(SECTIONS)
    assert [line for line in done.stdout.splitlines() if line.startswith("| ")] == [
        line for line in (tmp_path / "table.md").read_text().splitlines()[2:]
    ]


@pytest.fixture
def run_one(tmp_path: Path) -> Callable[[str, int], tuple[bool, dict[str, str]]]:
    """Runs a section of `failing.py`: whether it ended well, and its rows."""

    def run_section(name: str, limit_s: int) -> tuple[bool, dict[str, str]]:
        bench = Bench(name, True, tmp_path / "table.md", tmp_path / name)
        well = run(multiprocessing.get_context("spawn"), bench, Section("tests.gpu.failing", name, limit_s))
        return well, dict(re.findall(rf"^\| {name} \| (.+) \| (.+) \|$", bench.out.read_text(), re.MULTILINE))

    return run_section


def test_a_section_that_fails_says_why_and_the_next_one_runs(run_one: Callable) -> None:
    well, rows = run_one("fails", 60)
    assert (
        not well and rows["half"] == "done" and rows["FAILED"] == "RuntimeError: CUDA error: an illegal memory access"
    )
    well, rows = run_one("works", 60)
    assert well and rows["worked"] == "yes"


def test_a_section_that_hangs_is_ended_with_what_it_started(run_one: Callable) -> None:
    well, rows = run_one("hangs", 5)
    assert not well and rows["stopped"] == "after its limit of 5 s"
    if child := rows.get("child"):  # on a slow machine it has not come so far
        assert ends(int(child))


def ends(pid: int) -> bool:
    """Whether a process has ended, or does so soon: one that is killed ends once it gets a core."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
    finally:
        os.close(descriptor)


def test_on_a_gpu_every_section_passes(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; this machine has none")
    done, _ = program(tmp_path / "table.md")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
