"""The launcher with real processes: what comes up, what is reported, and that nothing is ever left behind."""

from __future__ import annotations

import json
import os
import re
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
from alphamed_nemo.launch.child import descendants, state_and_parent
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


STOPPING = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; os.kill(os.getpid(), 19)'])"


def test_a_stopped_rank_ends_the_run_by_name(launcher: Launcher) -> None:
    launcher.start(script("trainer", STOPPING, silent_within_s=1, grace_s=1))
    why = r"trainer ended because a process of it hung: process \d+ has been stopped \(SIGSTOP\) for 1 s"
    with pytest.raises(ComponentError, match=why):
        launcher.wait("trainer")


SAVING = """
import os, pathlib, signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("running", os.getpid(), flush=True)
os.kill({stopped}, signal.SIGSTOP)
while True:
    time.sleep(0.1)  # signal.pause would miss one that comes just before it
"""


def wait_for_words(launcher: Launcher, name: str, count: int) -> list[str]:
    deadline = time.monotonic() + LIMIT_S
    while len(words := launcher.log_of(name).read_text().split()) < count:
        assert time.monotonic() < deadline
    return words


def test_looks_that_take_longer_than_the_time_between_them_do_no_harm(launcher: Launcher) -> None:
    """As on a busy machine: a tenth of a millisecond lies between two."""
    launcher.start(script("trainer", "import time; time.sleep(2); print('done')", silent_within_s=0.001))
    launcher.wait("trainer")
    assert launcher.log_of("trainer").read_text() == "done\n"


def test_what_is_stopped_is_continued_at_the_end_so_that_it_can_save(launcher: Launcher) -> None:
    launcher.start(script("trainer", SAVING.format(stopped="os.getpid()"), grace_s=LIMIT_S))
    wait_for_words(launcher, "trainer", 2)
    launcher.stop("trainer")
    assert launcher.log_of("trainer").read_text().split()[-1] == "saved"


def test_a_stopped_wrapper_is_found_and_its_command_can_save(launcher: Launcher) -> None:
    launcher.start(script("trainer", SAVING.format(stopped="os.getppid()"), silent_within_s=1, grace_s=LIMIT_S))
    wait_for_words(launcher, "trainer", 2)
    pid = launcher.running["trainer"].process.pid
    with pytest.raises(ComponentError, match=rf"trainer hangs: its wrapper, process {pid}, has been stopped"):
        launcher.wait("trainer")
    launcher.stop("trainer")
    assert launcher.log_of("trainer").read_text().split()[-1] == "saved"


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
