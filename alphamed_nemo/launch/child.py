"""Runs one component so that nothing of it outlives its launcher, whatever ends the launcher.

    python -IS alphamed_nemo/launch/child.py LAUNCHER_PID GRACE_S STOPPED_S COMMAND...

The wrapper adopts every descendant whose own parent dies (Linux's child subreaper) and gets SIGTERM when the launcher
dies, kill -9 included. SIGTERM goes on to the command, which may have reasons of its own for the order in which its
children end; what is left after the grace is killed, and so is what the command leaves behind. Should the wrapper
itself be killed, the kernel kills the command. Standard library only: it must start in no time.

A descendant that has been stopped (SIGSTOP) for STOPPED_S seconds counts as hanging: all others would wait for it. The
wrapper says which one, continues it, so that it hears of the end, ends the command as above and returns HUNG. A
launcher that has been stopped for as long is continued: nobody else restarts servers or notices the end of the run.

The command's temporary files (TMPDIR, and the variables that ALPHAMED_SCRATCH names) lie in a folder of its own, which
goes with it, and so does the shared memory that a killed command leaves. Should the wrapper be killed, the next one to
start, or the launcher as it ends, removes the folder and the processes that still have it as their TMPDIR.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SPAWN_FAILED = 127
HUNG = 124  # as timeout(1) has it
STOPPED = "T"  # a process that got SIGSTOP or SIGTSTP, as ps shows it
LOOKS = 12  # at the command's processes, in the time after which a stopped one counts as hanging
SCRATCH = "ALPHAMED_SCRATCH"
PREFIX = "alphamed-"
OWNED = ".owned"  # in a scratch folder: locked while its wrapper lives, as old as the folder
SHARED_MEMORY = Path("/dev/shm")
SEGMENT = re.compile(r"psm_|torch_|nccl-|sem\.mp-|vllm")  # names that Python, torch, NCCL and vLLM give
# The name of a unix socket has at most 107 bytes. vLLM's are uuids: "/alphamed-" + 8, "/" + 36 come after the parent.
LONGEST_PARENT = 107 - 18 - 37

libc = ctypes.CDLL(None)


def main(launcher: int, grace_s: int, stopped_s: float, command: list[str]) -> int:
    """Returns the command's exit status; 128 + n where signal n ended it; HUNG where one of its processes was stopped
    for too long."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    # Signals wait until there is a command to pass them to.
    passed = {signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    sweep()
    scratch = make_scratch()
    try:
        process = subprocess.Popen(command, preexec_fn=in_command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        shutil.rmtree(scratch, ignore_errors=True)
        return SPAWN_FAILED

    kill_at, hung = math.inf, False
    watch, launchers_watch = StopWatch(stopped_s), StopWatch(stopped_s)
    for_too_long = f"has been stopped (SIGSTOP) for {stopped_s:g} s (run.hang_timeout_s)"

    def stop(_number: int, _frame: object) -> None:
        nonlocal kill_at
        kill_at = time.monotonic() + max(1, grace_s)
        look_again()
        pass_on(signal.SIGTERM, None)
        for pid in stopped(descendants(os.getpid())):
            kill(pid, signal.SIGCONT)

    def pass_on(number: int, _frame: object) -> None:
        # Not process.send_signal: it polls, and would reap the command behind reap_until's back.
        kill(process.pid, number)

    def look(_number: int, _frame: object) -> None:
        nonlocal hung
        if time.monotonic() >= kill_at:
            kill_descendants()
        elif kill_at == math.inf and watch.is_over(found := stopped(descendants(os.getpid()))):
            print(f"error: process {found[0]} {for_too_long}", file=sys.stderr, flush=True)
            hung = True
            stop(signal.SIGTERM, None)
        else:
            if launchers_watch.is_over(stopped([launcher])):
                print(f"the launcher, process {launcher}, {for_too_long}: continued", file=sys.stderr, flush=True)
                kill(launcher, signal.SIGCONT)
            look_again()

    def look_again() -> None:
        """Once, since on a busy machine a look may take longer than the time between two."""
        left = max(0.001, kill_at - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, min(left, stopped_s / LOOKS))

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGALRM, look)
    look_again()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
    if os.getppid() != launcher:  # it died before the death signal was asked for
        stop(signal.SIGTERM, None)
    status = reap_until(process.pid)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # the command is gone: nothing to pass on to
    whole = status == 0 and not has_children()  # what ends by itself removes its shared memory
    while has_children():
        kill_descendants()
        os.wait()
    clear(scratch, shared_memory=not whole)
    return HUNG if hung else status


class StopWatch:
    """Tells how long one of some processes has been stopped, by being shown the stopped ones again and again."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.since: float | None = None  # when one was first found

    def is_over(self, found: list[int]) -> bool:
        """Whether there has been one for longer than the limit."""
        now = time.monotonic()
        self.since = (now if self.since is None else self.since) if found else None
        return self.since is not None and now - self.since > self.limit_s


def scratch_parent() -> str:
    parent = tempfile.gettempdir()
    return parent if len(os.fsencode(parent)) <= LONGEST_PARENT else "/tmp"


def make_scratch() -> str:
    """The folder that the command is given, in its environment. It is this process's while the lock in it is held."""
    folder = tempfile.mkdtemp(prefix=f".new-{PREFIX}", dir=scratch_parent())
    lock = os.open(f"{folder}/{OWNED}", os.O_CREAT | os.O_RDWR, 0o600)  # closed by the kernel, with this process
    fcntl.flock(lock, fcntl.LOCK_EX)
    scratch = folder.replace(f".new-{PREFIX}", PREFIX)
    os.rename(folder, scratch)
    for variable in ("TMPDIR", *os.environ.pop(SCRATCH, "").split()):
        os.environ[variable] = scratch
    # By setproctitle ranks and vLLM name themselves; it would write over the environment that `sweep` knows them by.
    os.environ["SPT_NOENV"] = "1"
    return scratch


def sweep(parent: str = "") -> None:
    """Removes what wrappers left that were killed: processes, and the folders that no living wrapper owns."""
    for folder in Path(parent or scratch_parent()).glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / OWNED, os.O_RDWR)
        except OSError:  # gone meanwhile, or no scratch folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for pid in processes_with(f"TMPDIR={folder}"):
                kill(pid)
            clear(str(folder), shared_memory=True)
        except BlockingIOError:  # its wrapper lives
            pass
        finally:
            os.close(lock)


def clear(scratch: str, shared_memory: bool) -> None:
    """Removes a scratch folder, and the segments of shared memory that nobody uses since; best effort."""
    try:
        begun = os.stat(f"{scratch}/{OWNED}").st_mtime
    except OSError:
        return
    if shared_memory:
        # Before looking who uses what: one that is made meanwhile is not among them.
        segments = list(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else []
        used = segments_in_use()
        for segment in segments:
            try:
                found = segment.stat()
                ours = found.st_uid == os.geteuid() and found.st_ctime >= begun and SEGMENT.match(segment.name)
                if ours and found.st_ino not in used:
                    segment.unlink()
            except OSError:
                continue
    shutil.rmtree(scratch, ignore_errors=True)


def segments_in_use() -> set[int]:
    """Inodes of the segments that a process has mapped or open. Not their names: glibc makes a semaphore under another
    one, by which its maps go on naming it."""
    place = f"{SHARED_MEMORY}/"
    used: set[int] = set()
    for process in all_processes():
        try:
            used |= {int(line.split()[4]) for line in (process / "maps").open() if place in line}
            used |= {os.stat(file).st_ino for file in (process / "fd").iterdir() if os.readlink(file).startswith(place)}
        except OSError:
            continue
    return used


def processes_with(variable: str) -> list[int]:
    """Processes that were started with this in their environment."""
    found = []
    for process in all_processes():
        try:
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def all_processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]


def in_command() -> None:
    """Between fork and exec: the signals of an ordinary process, and death with the wrapper."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reap_until(pid: int) -> int:
    """Collects ended children, adopted ones too, until `pid` is among them."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def kill_descendants() -> None:
    """SIGKILL to everything below this process, in rounds, since more may be born while one round is counted."""
    killed: set[int] = set()
    while below := set(descendants(os.getpid())) - killed:
        for pid in below:
            kill(pid)
        killed |= below


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process, which may be gone, or another user's (slurmstepd is the launcher of a task)."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def descendants(root: int) -> list[int]:
    """Process ids below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent = state_and_parent(int(entry.name))
            if state not in ("", "Z"):
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def stopped(pids: list[int]) -> list[int]:
    """Those that have been stopped by a signal."""
    return [pid for pid in pids if state_and_parent(pid)[0] == STOPPED]


def state_and_parent(pid: int) -> tuple[str, int]:
    """A process's state, as ps shows it, and its parent; nothing and 0 where it is gone, or hidden (hidepid)."""
    state, parent, *_ = status_of(pid) or ["", "0"]
    return state, int(parent)


def status_of(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; none where the process is gone, or hidden (hidepid)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
