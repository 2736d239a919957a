"""One owner at a time for what several processes must not write together: a lock that ends with its process.

The lock is `flock` on an open file; the file names its owner, so that whoever is refused can say whom to look for.

- `flock`, because it belongs to the open file: the kernel drops it when the process ends, however it ends, so a crash
  leaves no stale lock and no process id has to be guessed at. A file made with O_EXCL would stay after a crash; a
  `lockf` lock belongs to the process, which loses it as soon as it closes any other handle of the same file.
- On NFS Linux turns `flock` into a byte-range lock on the server, and Lustre with the mount option `flock` asks its
  metadata server: other nodes see both. The lock of a node that lost power goes when the server's lease does.
- Where it reaches this node alone (Lustre with `localflock`, NFS with `local_lock`) or is not supported at all, the
  file's own words decide: an owner of this node is gone when its process is (process id, start time and boot), an owner
  of the same Slurm job when the job has been started again since; any other is taken to be alive, and the message says
  which file to remove if it is not.
- The file is emptied at the end and never removed: a process could otherwise hold the lock of a file without a name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from alphamed_nemo.config.file_writing import writing

NODE_ONLY = {"localflock", "nolock", "local_lock=all", "local_lock=flock"}  # mount options
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
NAMELESS_S = 5.0  # a lock whose file names nobody is only being looked at, or about to be named
LEASE_S = 120.0  # an NFS server may keep the lock of a lost node for 90 s

log = logging.getLogger(__name__)


class InUse(ValueError):
    """Another process owns it; the message has its host, its process and since when it runs."""


@dataclass(frozen=True)
class Owner:
    """A process, so that it can be found, and told from a later one with its number.

    Attributes:
        what: which program.
        host, pid: where.
        started: when the process was started, local time.
        ticks: the same in clock ticks since the boot.
        boot: id of the machine's boot and of the process namespace, in which the number has a meaning.
        job, attempt: Slurm's, and how often the job was started before; empty and 0 outside of a job.
    """

    what: str
    host: str
    pid: int
    started: str
    ticks: int
    boot: str
    job: str = ""
    attempt: int = 0

    @classmethod
    def here(cls, what: str) -> Owner:
        """This process."""
        ticks = _ticks(os.getpid())
        assert ticks is not None, "this process runs"
        return cls(
            what=what,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_clock_time(ticks),
            ticks=ticks,
            boot=_boot(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            attempt=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"{self.what} on {self.host} (process {self.pid}, started {self.started}{job})"

    @property
    def is_before_requeue(self) -> bool:
        """Whether it is of an earlier start of the Slurm job that this process is in: Slurm has ended all of those."""
        attempt = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        return bool(self.job) and self.job == os.environ.get("SLURM_JOB_ID") and self.attempt < attempt

    @property
    def is_on_this_node(self) -> bool:
        return self.boot.split()[0] == _boot().split()[0]

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; false where this node cannot tell."""
        return self.is_before_requeue or (self.boot == _boot() and _ticks(self.pid) != self.ticks)


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Owns what `path` stands for until the block, or the process, ends.

    Args:
        path: the lock's file, inside of what it protects; its folder is made.
        what: the program, for the message that others get.

    Raises:
        InUse: another process owns it.
        ValueError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # NFS locks exclusively what is open for writing
    except PermissionError as error:
        raise ValueError(
            f"{path.parent} cannot be written: {error.strerror}; set another run.name or run.dir"
        ) from error
    try:
        _take(handle, path)
        with writing(path):
            _write(handle, json.dumps(asdict(Owner.here(what))))
        try:
            yield
        finally:
            _write(handle, "")
    finally:
        os.close(handle)


def check_free(path: Path) -> None:
    """Raises InUse where another process owns what `path` stands for."""
    if path.exists():
        handle = os.open(path, os.O_RDWR)
        try:
            _take(handle, path)
        finally:
            os.close(handle)


def _take(handle: int, path: Path) -> None:
    """Takes the lock, or raises InUse."""
    started = time.monotonic()
    while (locked := _flock(handle)) is False:
        owner = _read(handle)
        patience = NAMELESS_S if owner is None else LEASE_S if owner.is_before_requeue else 0.0
        if time.monotonic() - started >= patience:
            raise InUse(_message(path, owner))
        time.sleep(0.05)
    owner = _read(handle)
    if owner is None:
        return
    unseen = locked is None or (not owner.is_on_this_node and reaches_this_node_only(path))
    if unseen and not owner.is_gone:
        raise InUse(f"{_message(path, owner)}; locks here are not shared by nodes: if it has ended, remove {path}")
    log.info("%s: taken over from %s, which has ended without a word", path.parent, owner)


def _message(path: Path, owner: Owner | None) -> str:
    return (
        f"{path.parent} is in use by {owner or 'another process'}; wait for its end or stop it, or set another run.name"
    )


def _flock(handle: int) -> bool | None:
    """Whether the lock was free and is taken; None where the file system has no such locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def _read(handle: int) -> Owner | None:
    """Whom the file names; None where it is empty or half written."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return Owner(**{field.name: found[field.name] for field in fields(Owner)})
    except (ValueError, TypeError, KeyError):
        return None


def _write(handle: int, text: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, text.encode(), 0)
    os.fsync(handle)


def reaches_this_node_only(path: Path) -> bool:
    """Whether the file system's mount options keep locks to this node."""
    path, options, longest = path.resolve(), "", -1
    for line in mounts().splitlines():
        mount, _, of_system = line.partition(" - ")
        columns = mount.split()
        point = Path(columns[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= longest:  # the last of equals lies on top
            longest, options = len(point.parts), f"{columns[5]},{of_system.split()[-1]}"
    return not NODE_ONLY.isdisjoint(options.split(","))


def mounts() -> str:
    """What is mounted where, as Linux says it."""
    return Path("/proc/self/mountinfo").read_text()


def _boot() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot; None where there is none, or only its zombie."""
    try:
        state, *columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(columns[18])


def _clock_time(ticks: int) -> str:
    lines = Path("/proc/stat").read_text().splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return str(datetime.fromtimestamp(boot + ticks // os.sysconf("SC_CLK_TCK")))
