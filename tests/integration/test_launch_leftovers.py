"""Whatever ends a component, the launcher or a rank: no process, temporary file or shared memory is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.child import descendants, state_and_parent
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher
from tests.integration.launched import LIMIT_S, ROOT, family, family_pids, gone_within, script

RENAMED = "import setproctitle, signal; setproctitle.setproctitle('rank 0 of 4'); print(flush=True); signal.pause()"
LEAVING = f"""
import multiprocessing.resource_tracker, os, subprocess, sys, tempfile
from multiprocessing.shared_memory import SharedMemory
multiprocessing.resource_tracker.register = lambda *_: None  # as where it is killed along
segment = SharedMemory(create=True, size=64)
folder = tempfile.mkdtemp()
child = subprocess.Popen([sys.executable, "-c", {RENAMED!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(os.environ["TMPDIR"], folder, segment.name, child.pid, flush=True)
"""


def left_by(launcher: Launcher) -> tuple[Path, Path, Path, int]:
    """Scratch folder, a folder made in it, a segment of shared memory and a child with a session and a title of its
    own, as vLLM's engines and the ranks have them."""
    log = launcher.log_of("vllm")
    deadline = time.monotonic() + LIMIT_S
    while len(words := log.read_text().split()) < 4:
        assert time.monotonic() < deadline
    return Path(words[0]), Path(words[1]), Path("/dev/shm", words[2]), int(words[3])


def test_temporary_files_and_shared_memory_of_a_killed_command_go_with_it(launcher: Launcher) -> None:
    launcher.start(script("vllm", LEAVING + "os.kill(os.getpid(), 9)"))
    with pytest.raises(ComponentError, match="vllm ended by SIGKILL"):
        launcher.wait("vllm")
    scratch, folder, segment, child = left_by(launcher)
    assert folder.parent == scratch and not scratch.exists() and not segment.exists()
    assert gone_within([child], 0)


@pytest.mark.parametrize("remover", ["the end of the launcher", "the next start"])
def test_what_a_killed_wrapper_leaves_is_removed(launcher: Launcher, tmp_path: Path, remover: str) -> None:
    launcher.start(script("vllm", LEAVING + "import signal; signal.pause()"))
    scratch, folder, segment, child = left_by(launcher)
    assert folder.exists() and segment.exists()
    wrapper = launcher.running["vllm"].process
    wrapper.kill()
    wrapper.wait(LIMIT_S)
    assert scratch.exists()
    if remover == "the end of the launcher":
        launcher.stop()
    else:
        with Launcher(tmp_path / "next") as following:
            following.start(script("next", ""))
            following.wait("next")
    assert not scratch.exists() and not segment.exists()
    assert gone_within([child], LIMIT_S)


def test_a_component_that_runs_keeps_its_files_while_others_start_and_end(launcher: Launcher, tmp_path: Path) -> None:
    launcher.start(script("vllm", LEAVING + "import signal; signal.pause()"))
    scratch, folder, segment, child = left_by(launcher)
    with Launcher(tmp_path / "next") as following:
        following.start(script("next", "import os; os.kill(os.getpid(), 9)"))
        with pytest.raises(ComponentError):
            following.wait("next")
    assert folder.exists() and segment.exists() and not gone_within([child], 0)


@pytest.mark.parametrize("temporary", ["/tmp", "/tmp/" + "long" * 20], ids=["short", "too-long-for-sockets"])
def test_a_killed_command_leaves_nothing_in_the_folder_that_it_asked_for(launcher: Launcher, temporary: str) -> None:
    code = """
import os, socket
place = os.environ["PLACE"]
print(place, flush=True)
socket.socket(socket.AF_UNIX).bind(f"{place}/{'x' * 36}")
os.kill(os.getpid(), 9)
"""
    Path(temporary).mkdir(exist_ok=True)
    launcher.start(script("vllm", code, env={"ALPHAMED_SCRATCH": "PLACE", "TMPDIR": temporary}))
    with pytest.raises(ComponentError, match="vllm ended by SIGKILL"):
        launcher.wait("vllm")
    place = Path(launcher.log_of("vllm").read_text().strip())
    assert place.parent == Path("/tmp") and place.name.startswith("alphamed-") and not place.exists()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a launcher in a process of its own, as a shell starts a background job: with SIGINT ignored."""
    started = []

    def start(*more: str) -> subprocess.Popen:
        argv = [sys.executable, "-m", "tests.integration.launch_program", str(tmp_path), str(free_port()), *more]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        finally:
            signal.signal(signal.SIGINT, before)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_launcher_leaves_no_process(
    program: Callable[..., subprocess.Popen], number: signal.Signals
) -> None:
    process = program()
    pids = json.loads(process.stdout.readline())
    process.send_signal(number)
    status = process.wait(LIMIT_S)
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    # After kill -9 nobody is left to wait for the children: they have their grace of one second.
    assert gone_within(pids, LIMIT_S if number == signal.SIGKILL else 0)


def test_a_stopped_launcher_is_continued_by_what_it_watches(program: Callable[..., subprocess.Popen], tmp_path) -> None:
    process = program()
    pids = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    deadline = time.monotonic() + LIMIT_S
    while not os.waitpid(process.pid, os.WCONTINUED | os.WNOHANG)[0]:
        assert time.monotonic() < deadline
    said = f"the launcher, process {process.pid}, has been stopped (SIGSTOP) for 1 s (run.hang_timeout_s): continued\n"
    assert said in (tmp_path / "family.log").read_text()
    assert all(state_and_parent(pid)[0] for pid in pids)  # nothing has ended by it
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM


def test_processes_that_the_system_hides_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_path: Path) -> str:
        raise PermissionError  # with hidepid=1

    monkeypatch.setattr(Path, "read_text", hidden)
    assert descendants(os.getpid()) == []


@pytest.mark.parametrize("way", ["torchrun", "ranks"])
def test_a_killed_launcher_leaves_no_rank(program: Callable[..., subprocess.Popen], way: str) -> None:
    process = program(way)
    pids = json.loads(process.stdout.readline())
    process.kill()
    assert gone_within(pids, LIMIT_S)


@pytest.fixture
def ranks() -> Iterator[Callable[[str], subprocess.Popen]]:
    """Starts two ranks of tests/integration/stopped_rank.py."""
    started = []

    def start(way: str) -> subprocess.Popen:
        module = ["alphamed_nemo.launch.ranks", "2", str(free_port()), "tests.integration.stopped_rank", way]
        wrapped = Component("ranks", [sys.executable, "-m", *module], grace_s=LIMIT_S).wrapped(str(os.getpid()))
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(wrapped, text=True, cwd=ROOT, **both))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate()


def said_of_ranks(process: subprocess.Popen, count: int) -> dict[str, str]:
    """`rank 0 is`, `rank 1 has` and so on → what follows, once the ranks have said so many of them."""
    assert process.stdout is not None
    said: dict[str, str] = {}
    for line in process.stdout:
        if found := re.match(r"(rank \d \w+) (\w+)\n", line):
            said[found[1]] = found[2]
        if len(said) == count:
            return said
    raise AssertionError(f"ended after {said}")


def test_ranks_that_end_when_they_are_asked_to_end_well_and_nobody_waits_for_them(ranks) -> None:
    process = ranks("stops")
    said_of_ranks(process, 2)
    process.terminate()
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "rank 0 has ended" in said and "rank 1 has ended" in said and "Unable to shutdown" not in said


def test_a_rank_that_has_ended_its_work_is_not_waited_for_when_another_is_killed(ranks) -> None:
    process = ranks("ends")
    said = said_of_ranks(process, 3)
    assert said["rank 1 has"] == "ended"
    os.kill(int(said["rank 0 is"]), signal.SIGKILL)
    rest, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1 and "Unable to shutdown" not in rest


def test_an_exception_leaves_no_process(tmp_path: Path) -> None:
    component = family(grace_s=1)
    with pytest.raises(RuntimeError, match="bug"):
        with Launcher(tmp_path) as launcher:
            launcher.start(component)
            launcher.wait_ready("family")
            pids = family_pids(component)
            raise RuntimeError("bug")
    assert gone_within(pids, 0)


def test_a_killed_wrapper_takes_its_command_along(launcher: Launcher) -> None:
    component = family()
    launcher.start(component)
    launcher.wait_ready("family")
    command, child, grandchild = family_pids(component)
    launcher.running["family"].process.kill()
    try:
        assert gone_within([command], LIMIT_S)
        with pytest.raises(ComponentError, match="family ended by SIGKILL"):
            launcher.running["family"].process.wait(LIMIT_S)
            launcher.check()
    finally:
        for pid in (child, grandchild):  # the one case beyond the wrapper's reach
            os.kill(pid, signal.SIGKILL)
