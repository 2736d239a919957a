"""Runs one component so that nothing of it outlives its launcher, whatever ends the launcher.

    python -IS alphamed_nemo/launch/child.py LAUNCHER_PID GRACE_S COMMAND...

The wrapper adopts every descendant whose own parent dies (Linux's child subreaper) and gets SIGTERM when the launcher
dies, kill -9 included. SIGTERM goes on to the command, which may have reasons of its own for the order in which its
children end; what is left after the grace is killed, and so is what the command leaves behind. Should the wrapper
itself be killed, the kernel kills the command. Standard library only: it must start in no time.

Where ALPHAMED_SCRATCH names a variable, the command finds in that variable a folder of its own, which goes with it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SPAWN_FAILED = 127
SCRATCH = "ALPHAMED_SCRATCH"
# The name of a unix socket has at most 107 bytes. vLLM's are uuids: "/alphamed-" + 8, "/" + 36 come after the parent.
LONGEST_PARENT = 107 - 18 - 37

libc = ctypes.CDLL(None)


def main(launcher: int, grace_s: int, command: list[str]) -> int:
    """Returns the command's exit status; 128 + n where signal n ended it."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    # Signals wait until there is a command to pass them to.
    passed = {signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    scratch = make_scratch()
    try:
        process = subprocess.Popen(command, preexec_fn=in_command)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        remove(scratch)
        return SPAWN_FAILED

    def stop(_number: int, _frame: object) -> None:
        signal.alarm(max(1, grace_s))
        pass_on(signal.SIGTERM, None)

    def pass_on(number: int, _frame: object) -> None:
        # Not process.send_signal: it polls, and would reap the command behind reap_until's back.
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGALRM, lambda _number, _frame: kill_descendants())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
    if os.getppid() != launcher:  # it died before the death signal was asked for
        stop(signal.SIGTERM, None)
    status = reap_until(process.pid)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # the command is gone: nothing to pass on to
    while has_children():
        kill_descendants()
        os.wait()
    remove(scratch)
    return status


def make_scratch() -> str:
    """The folder that the command is given, in its environment; nothing where it asks for none."""
    variable = os.environ.pop(SCRATCH, "")
    if not variable:
        return ""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="alphamed-", dir=parent if len(os.fsencode(parent)) <= LONGEST_PARENT else "/tmp")
    os.environ[variable] = folder
    return folder


def remove(scratch: str) -> None:
    """Best effort: the command's status is what counts."""
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


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
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed |= below


def descendants(root: int) -> list[int]:
    """Process ids below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
