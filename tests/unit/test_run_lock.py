"""One owner at a time: real locks, held by other real processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from alphamed_nemo import run_lock
from alphamed_nemo.run_lock import InUse, Owner, check_free, hold

HOLDER = """
import sys
from pathlib import Path
from alphamed_nemo.run_lock import hold
with hold(Path(sys.argv[1]), "trainer"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


@pytest.fixture
def start_holder(lock: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process that holds the lock until its input ends."""
    started = []

    def start(**variables: str) -> subprocess.Popen:
        words, pipe = [sys.executable, "-c", HOLDER, str(lock)], subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=os.environ | variables)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def named(lock: Path) -> Owner:
    return Owner(**json.loads(lock.read_text()))


def left_behind(lock: Path, **changes: object) -> Owner:
    """A lock file as a crash leaves it: it names an owner, and nobody holds it."""
    owner = replace(Owner.here("trainer"), **changes)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(asdict(owner)))
    return owner


def test_a_second_process_is_refused_with_host_process_and_start_of_the_first(lock, start_holder):
    before = datetime.now()
    holder = start_holder()
    with pytest.raises(InUse) as error, hold(lock, "train_grpo"):
        pass
    who = rf"{lock.parent} is in use by trainer on {socket.gethostname()} \(process {holder.pid}, started ([-0-9: ]+)\)"
    found = re.match(who, str(error.value))
    assert found and "set another run.name" in str(error.value)
    second = timedelta(seconds=2)  # the system's clock ticks and its time of boot are rounded
    assert before - second < datetime.fromisoformat(found[1]) < datetime.now() + second
    with pytest.raises(InUse, match=f"process {holder.pid}"):
        check_free(lock)


def test_it_is_free_again_after_a_clean_end_and_names_nobody(lock, start_holder):
    holder = start_holder()
    holder.communicate("")
    assert lock.read_text() == ""
    check_free(lock)
    with hold(lock, "train_grpo"):
        assert named(lock).pid == os.getpid()
    assert lock.read_text() == ""


def test_a_killed_owner_leaves_no_stale_lock(lock, start_holder, caplog):
    holder = start_holder()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert named(lock).pid == holder.pid
    with caplog.at_level("INFO"), hold(lock, "train_grpo"):
        assert named(lock).pid == os.getpid()
    assert f"taken over from trainer on {socket.gethostname()} (process {holder.pid}" in caplog.text


def test_a_lost_node_leaves_no_stale_lock_where_nodes_share_locks(lock):
    left_behind(lock, host="node7", boot="another boot")
    with hold(lock, "train_grpo"):
        assert named(lock).host == socket.gethostname()


def test_a_process_may_not_own_it_twice(lock):
    with hold(lock, "train_grpo"), pytest.raises(InUse, match=f"process {os.getpid()}"), hold(lock, "train_grpo"):
        pass


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(lock, monkeypatch):
    lock.parent.mkdir()

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run_lock.os, "open", refuse)
    with pytest.raises(ValueError, match=r"run cannot be written: Permission denied; set another run.name"):
        with hold(lock, "train_grpo"):
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', "\0" * 10])
def test_a_half_written_name_is_no_owner(lock, text):
    lock.parent.mkdir()
    lock.write_text(text)
    with hold(lock, "train_grpo"):
        assert named(lock).pid == os.getpid()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without flock, as Lustre is without its mount option."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_living_process_of_this_node_owns_it_and_a_dead_one_does_not(lock, start_holder, no_locks):
    holder = start_holder()
    with pytest.raises(
        InUse, match=f"process {holder.pid}.*locks here are not shared by nodes: if it has ended, remove"
    ):
        with hold(lock, "train_grpo"):
            pass
    holder.kill()
    holder.wait()
    with hold(lock, "train_grpo"):
        assert named(lock).pid == os.getpid()


def test_without_locks_a_later_process_with_the_number_of_the_owner_is_not_the_owner(lock, no_locks):
    left_behind(lock, ticks=Owner.here("").ticks - 1)
    with hold(lock, "train_grpo"):
        assert named(lock) == Owner.here("train_grpo")


def test_without_locks_an_owner_on_another_node_is_taken_to_be_alive(lock, no_locks):
    left_behind(lock, host="node7", boot="another boot", pid=4711)
    with pytest.raises(InUse, match=rf"trainer on node7 \(process 4711.*remove {lock}"):
        with hold(lock, "train_grpo"):
            pass


def test_a_requeued_job_takes_over_from_its_earlier_start_on_another_node(lock, no_locks, monkeypatch):
    left_behind(lock, host="node7", boot="another boot", job="17", attempt=0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(InUse, match="Slurm job 17"), hold(lock, "train_grpo"):  # the same start of it
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with hold(lock, "train_grpo"):
        assert (named(lock).job, named(lock).attempt) == ("17", 1)


def test_a_requeued_job_waits_for_the_lease_of_its_lost_node(lock, start_holder, monkeypatch):
    """The server still keeps the lock of a node that lost power: here a process that ends while it is waited for."""
    holder = start_holder(SLURM_JOB_ID="17", SLURM_RESTART_COUNT="0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    waited = []

    def wait(_seconds: float) -> None:
        waited.append(holder.poll())
        holder.kill()
        holder.wait()

    monkeypatch.setattr(run_lock.time, "sleep", wait)
    with hold(lock, "train_grpo"):
        pass
    assert waited == [None]


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:50 / {folder} rw,relatime shared:9 - {system} server:/x rw,{options}
31 22 0:51 / {folder}/sub rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("system", "options", "here_only"),
    [
        ("lustre", "flock,lazystatfs", False),
        ("lustre", "localflock,lazystatfs", True),
        ("nfs4", "vers=4.2,hard,local_lock=none", False),
        ("nfs", "vers=3,nolock,local_lock=all", True),
        ("nfs", "vers=3,local_lock=posix", False),
    ],
)
def test_mount_options_say_whether_other_nodes_see_a_lock(tmp_path, monkeypatch, system, options, here_only):
    mounts = MOUNTS.format(folder=tmp_path, system=system, options=options)
    monkeypatch.setattr(run_lock, "mounts", lambda: mounts)
    assert run_lock.reaches_this_node_only(tmp_path / "run" / ".lock") is here_only
    lock = tmp_path / "run" / ".lock"
    left_behind(lock, host="node7", boot="another boot")
    if here_only:
        with pytest.raises(InUse, match="node7"), hold(lock, "train_grpo"):
            pass
    else:
        with hold(lock, "train_grpo"):
            pass
