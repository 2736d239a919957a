"""What a recipe shows while something takes long: on a terminal and in a log file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from alphamed_nemo.cli import progress
from alphamed_nemo.cli.progress import GrpoProgress, Waiting, counter
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher


class Clock:
    """The module time, moved by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def file() -> Console:
    """A console that writes to a file."""
    return Console(file=io.StringIO(), width=60, force_terminal=False, highlight=False)


def lines_of(console: Console) -> list[str]:
    text = console.file.getvalue()
    assert "\r" not in text and "\x1b" not in text
    return text.splitlines()


def every_second(clock: Clock, seconds: int, show: Callable[[int], None]) -> None:
    for second in range(1, seconds + 1):
        clock.now += 1
        show(second)


def test_a_wait_is_told_in_a_file_ever_more_rarely(clock: Clock, file: Console) -> None:
    waiting = Waiting(file)
    waiting("vllm (0 s)")
    every_second(clock, 200, lambda second: waiting(f"vllm ({second} of at most 900 s): [0/1] loading its libraries"))
    waiting("")
    times = [line.split("(")[1].split()[0] for line in lines_of(file)]
    assert times == ["10", "30", "70", "130", "190"]
    assert lines_of(file)[0] == "      vllm (10 of at most 900 s): [0/1] loading its libraries"


def test_a_short_wait_is_not_told_in_a_file_and_the_next_one_begins_anew(clock: Clock, file: Console) -> None:
    waiting = Waiting(file)
    for _ in range(5):
        waiting("vllm")
        every_second(clock, 9, lambda _: waiting("vllm"))
        waiting("")
    assert lines_of(file) == []


def test_a_wait_on_a_terminal_is_one_live_line_that_goes() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    waiting = Waiting(console)
    waiting("waiting for vllm (3 of at most 900 s): [0/1] loading its libraries")
    waiting("")  # draws a last time, and takes the line away
    assert "waiting for vllm (3 of at most 900 s): [0/1] loading its libraries" in console.file.getvalue()
    assert waiting.status is None


def test_counted_work_says_in_a_file_how_far_it_is(clock: Clock, file: Console) -> None:
    with counter("questions", 1600, file) as done:
        every_second(clock, 32, lambda second: done(50 * second, 1600))
    assert lines_of(file) == [
        "      500 of 1,600 questions in 10 s, about 22 s left",
        "      1,500 of 1,600 questions in 30 s, about 2 s left",
    ]


def test_training_says_what_it_does_before_its_first_step_and_after_its_last(clock: Clock, file: Console) -> None:
    with GrpoProgress(2, file) as shown:
        shown.say("starting the trainer")
        every_second(clock, 12, lambda _: shown.still(lambda: "the trainer: reading"))
        shown.update({"step": 1})
        every_second(clock, 90, lambda _: shown.still(lambda: "between two steps"))
        shown.update({"step": 2})
        every_second(clock, 11, lambda _: shown.still(lambda: "the trainer: writing"))
    said = [line.strip() for line in lines_of(file)]
    assert said[:2] == ["starting the trainer …", "the trainer: reading (10 s)"]
    assert said[-2:] == ["saving, then stopping the trainer …", "the trainer: writing (10 s)"]
    assert not any("between" in line for line in said)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "loading its libraries"),
        ("\n   \n----\n", "loading its libraries"),
        ("(APIServer pid=7) INFO 11-27 07:17:50 [model.py:733] Resolved Llama\n\n", "Resolved Llama"),
        ("rank 0 loaded the base model\n", "rank 0 loaded the base model"),
        ("x" * 5000 + "\n", "x" * 80 + "…"),
        ("rank 0 reads\n/lib/a b/x.py:12: UserWarning: No Apex.\n  warnings.warn(\n", "rank 0 reads"),
        ("/lib/x.py:12: FutureWarning: gone soon\n  value = lookup(name)\n", "loading its libraries"),
        ("rank 0 buckets: 1\nweights:\n\toutput_layer.weight\n", "weights:"),
    ],
    ids=["nothing", "blank", "vllm", "ours", "long", "warning", "only a warning", "list"],
)
def test_what_a_component_does_is_its_last_line_since_its_start(tmp_path, written: str, told: str) -> None:
    (tmp_path / "server.log").write_text("the life before\n")
    with Launcher(tmp_path) as launcher:
        launcher.start(Component("server", [sys.executable, "-IS", "-c", f"print({written!r}, end='')"]))
        launcher.running["server"].process.wait()
        assert launcher.doing("server") == told


def test_a_launcher_tells_what_it_waits_for(tmp_path) -> None:
    told: list[str] = []
    server = "import http.server as h; h.HTTPServer(('127.0.0.1', PORT), h.SimpleHTTPRequestHandler).serve_forever()"
    port = free_port()
    argv = [sys.executable, "-c", server.replace("PORT", str(port))]
    with Launcher(tmp_path, told.append) as launcher:
        launcher.start(Component("server", argv, health=f"http://127.0.0.1:{port}/", ready_within_s=90))
        launcher.wait_ready("server")
    assert told[0] == "waiting for server (0 of at most 90 s): loading its libraries"
    assert told[-1] == ""
