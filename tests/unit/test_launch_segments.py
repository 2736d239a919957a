"""What a killed command leaves in shared memory goes, and what others use there stays: real segments."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from alphamed_nemo.launch import child


def hold(lock, segment: str, found) -> None:
    """As a process does that was given both by the one that made them."""
    memory = SharedMemory(segment)
    with lock:
        found.send(bytes(memory.buf[:2]))
    memory.close()


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    """The folder of a command that was started before anything here was made."""
    (tmp_path / child.OWNED).touch()
    return str(tmp_path)


def test_a_segment_that_is_made_while_the_users_are_looked_for_stays(
    scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run's, whose process has been looked at already."""
    made: list[SharedMemory] = []
    look = child.segments_in_use

    def meanwhile() -> set[int]:
        found = look()
        made.append(SharedMemory(create=True, size=8))
        return found

    monkeypatch.setattr(child, "segments_in_use", meanwhile)
    child.clear(scratch, shared_memory=True)
    (memory,) = made
    assert (child.SHARED_MEMORY / memory.name).exists()
    memory.close()
    memory.unlink()


def test_segments_and_semaphores_of_living_processes_stay(scratch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A wrapper leaves itself out of all processes; here it is this one that has made everything, and that lives.
    monkeypatch.setattr(
        child, "all_processes", lambda: [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    )
    context = multiprocessing.get_context("spawn")
    lock, memory = context.Lock(), SharedMemory(create=True, size=8)
    memory.buf[:2] = b"ok"
    left = child.SHARED_MEMORY / f"psm_left_{os.getpid()}"
    left.touch()
    child.clear(scratch, shared_memory=True)
    assert not left.exists()
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(lock, memory.name, theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == b"ok"
    process.join()
    memory.close()
    memory.unlink()
