"""The launcher with real processes: what comes up, what is reported, and that nothing is ever left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(tmp_path / "logs") as running:
        yield running


def script(name: str, code: str, **settings) -> Component:
    return Component(name, [sys.executable, "-c", code], **settings)


def family(name: str = "family", **settings) -> Component:
    port = free_port()
    argv = [sys.executable, "-m", "tests.integration.launch_family", str(port)]
    env = {"PYTHONPATH": str(ROOT)}
    return Component(name, argv, env, f"http://127.0.0.1:{port}/health", LIMIT_S, **{"grace_s": 5, **settings})


def family_pids(component: Component) -> list[int]:
    return json.loads(urllib.request.urlopen(component.health).read())


def end_family(component: Component) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(component.health.replace("/health", "/end"))


def gone_within(pids: Iterable[int], limit_s: float) -> bool:
    """Waits for processes that are not our children, without polling."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], limit_s)[0]:
                return False
        finally:
            os.close(handle)
    return True


def test_a_server_is_ready_when_its_health_url_answers_and_gone_after_the_block(tmp_path: Path) -> None:
    component = family()
    with Launcher(tmp_path) as launcher:
        launcher.start(component)
        launcher.wait_ready("family")
        pids = family_pids(component)
    assert gone_within(pids, 0)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(component.health, timeout=2)


def test_a_component_that_dies_before_it_is_ready_is_reported_with_its_status_and_log(launcher: Launcher) -> None:
    code = "print('line one'); print('no such model'); raise SystemExit(7)"
    launcher.start(script("vllm", code, health=f"http://127.0.0.1:{free_port()}/health"))
    with pytest.raises(ComponentError, match=r"vllm ended with status 7(?s:.*)vllm\.log(?s:.*)no such model"):
        launcher.wait_ready("vllm")


def test_a_command_that_does_not_exist_is_reported(launcher: Launcher) -> None:
    launcher.start(Component("reward", ["no-such-command"], health=f"http://127.0.0.1:{free_port()}/health"))
    with pytest.raises(ComponentError, match=r"reward ended with status 127(?s:.*)cannot start no-such-command"):
        launcher.wait_ready("reward")


def test_a_component_that_never_becomes_ready_is_reported_with_its_limit(launcher: Launcher) -> None:
    url = f"http://127.0.0.1:{free_port()}/health"
    launcher.start(script("vllm", "import signal; signal.pause()", health=url, ready_within_s=0.5, grace_s=1))
    with pytest.raises(ComponentError, match=rf"vllm was not ready within 0\.5 s \({url} .*component_timeout_s"):
        launcher.wait_ready("vllm")


def test_a_component_that_dies_while_another_comes_up_ends_the_wait(launcher: Launcher) -> None:
    launcher.start(script("reward", "raise SystemExit(9)"))
    url = f"http://127.0.0.1:{free_port()}/health"
    launcher.start(script("vllm", "import signal; signal.pause()", health=url, ready_within_s=LIMIT_S, grace_s=1))
    with pytest.raises(ComponentError, match="reward ended with status 9"):
        launcher.wait_ready("vllm")


def test_a_server_that_dies_ends_the_run_and_takes_all_its_processes_along(launcher: Launcher) -> None:
    server = family("vllm")
    launcher.start(server)
    launcher.wait_ready("vllm")
    pids = family_pids(server)
    launcher.start(script("trainer", "import signal; signal.pause()", grace_s=5))
    trainer = launcher.running["trainer"].process
    end_family(server)
    with pytest.raises(ComponentError, match=r"vllm ended with status 3(?s:.*)the family ends"):
        launcher.wait("trainer")
    launcher.stop()
    assert gone_within(pids, 0)
    assert trainer.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)  # the latter: its wrapper was still starting


def test_the_trainers_own_failure_is_reported(launcher: Launcher) -> None:
    launcher.start(script("reward", "import signal; signal.pause()", grace_s=5))
    launcher.start(script("trainer", "raise ValueError('loss is nan')"))
    with pytest.raises(ComponentError, match=r"trainer ended with status 1(?s:.*)loss is nan"):
        launcher.wait("trainer")


def test_a_component_killed_by_a_signal_is_named_with_it(launcher: Launcher) -> None:
    launcher.start(script("trainer", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(ComponentError, match="trainer ended by SIGKILL"):
        launcher.wait("trainer")


def test_waiting_ends_when_the_component_ends_well_and_ticks_at_least_once(launcher: Launcher) -> None:
    ticks: list[int] = []
    launcher.start(script("trainer", "print('done')"))
    launcher.wait("trainer", lambda: ticks.append(1))
    assert ticks and "trainer" not in launcher.running
    assert launcher.log_of("trainer").read_text() == "done\n"
    assert launcher.log_of("trainer").stat().st_mode & 0o777 == 0o600


def test_a_stop_leaves_time_to_save(launcher: Launcher, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    port = free_port()
    code = f"""
import pathlib, signal, sys, http.server
def save(*_):
    pathlib.Path({str(saved)!r}).write_text("checkpoint")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
    launcher.start(script("trainer", code, health=f"http://127.0.0.1:{port}/", grace_s=LIMIT_S))
    launcher.wait_ready("trainer")
    process = launcher.running["trainer"].process
    launcher.stop("trainer")
    assert saved.read_text() == "checkpoint"
    assert process.returncode == 0 and not launcher.running


def test_a_component_may_be_started_again_a_set_number_of_times(launcher: Launcher) -> None:
    server = family("reward", restarts=1)
    launcher.start(server)
    launcher.wait_ready("reward")
    first = family_pids(server)
    end_family(server)
    assert gone_within(first, LIMIT_S)
    launcher.running["reward"].process.wait(LIMIT_S)
    launcher.check()
    launcher.wait_ready("reward")
    assert set(first).isdisjoint(family_pids(server))
    end_family(server)
    launcher.running["reward"].process.wait(LIMIT_S)
    with pytest.raises(ComponentError, match="reward ended with status 3"):
        launcher.check()


@pytest.mark.parametrize(
    ("place", "silent_within_s"),
    [(0, 4), (-1, 1)],  # the server itself, which no longer answers; the grandchild, as an engine behind its HTTP front
    ids=["server", "grandchild"],
)
def test_a_component_with_a_stopped_process_is_found_and_all_of_it_started_again(
    launcher: Launcher, place: int, silent_within_s: float
) -> None:
    server = family("reward", restarts=1, silent_within_s=silent_within_s, grace_s=1)
    launcher.start(server)
    launcher.wait_ready("reward")
    first = family_pids(server)
    os.kill(first[place], signal.SIGSTOP)
    deadline = time.monotonic() + LIMIT_S
    while not launcher.restarted["reward"]:
        launcher.check()
        assert time.monotonic() < deadline
    launcher.wait_ready("reward")
    assert set(first).isdisjoint(family_pids(server)) and gone_within(first, 0)


def test_a_stopped_rank_ends_the_run_by_name(launcher: Launcher) -> None:
    ranks = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; os.kill(os.getpid(), 19)'])"
    launcher.start(script("trainer", ranks, silent_within_s=1, grace_s=1))
    with pytest.raises(ComponentError, match=r"trainer hangs: process \d+ of it has been stopped \(SIGSTOP\) for 1 s"):
        launcher.wait("trainer")


LEAVING = """
import multiprocessing.resource_tracker, os, subprocess, sys, tempfile
from multiprocessing.shared_memory import SharedMemory
multiprocessing.resource_tracker.register = lambda *_: None  # as where it is killed along
segment = SharedMemory(create=True, size=64)
folder = tempfile.mkdtemp()
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
print(os.environ["TMPDIR"], folder, segment.name, child.pid, flush=True)
"""


def left_by(launcher: Launcher) -> tuple[Path, Path, Path, int]:
    """Scratch folder, a folder made in it, a segment of shared memory and a child in a session of its own."""
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


def test_one_that_was_never_ready_is_not_started_again(launcher: Launcher) -> None:
    launcher.start(script("vllm", "raise SystemExit(4)", health=f"http://127.0.0.1:{free_port()}/", restarts=3))
    with pytest.raises(ComponentError, match="vllm ended with status 4"):
        launcher.wait_ready("vllm")


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


@pytest.mark.parametrize("way", ["torchrun", "ranks"])
def test_a_killed_launcher_leaves_no_rank(program: Callable[..., subprocess.Popen], way: str) -> None:
    process = program(way)
    pids = json.loads(process.stdout.readline())
    process.kill()
    assert gone_within(pids, LIMIT_S)


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
