"""The launcher with real processes: what comes up, what is reported, what is started again, and what hangs."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from alphamed_nemo.errors import ComponentError
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher
from tests.integration.launched import LIMIT_S, end_family, family, family_pids, gone_within, script


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


def test_one_that_was_never_ready_is_not_started_again(launcher: Launcher) -> None:
    launcher.start(script("vllm", "raise SystemExit(4)", health=f"http://127.0.0.1:{free_port()}/", restarts=3))
    with pytest.raises(ComponentError, match="vllm ended with status 4"):
        launcher.wait_ready("vllm")
