"""Starts, watches and stops the components of a run on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from alphamed_nemo.config.private import owner_only
from alphamed_nemo.errors import ComponentError, Stopped
from alphamed_nemo.launch.child import HUNG, stopped, sweep
from alphamed_nemo.launch.components import Component
from alphamed_nemo.launch.running import Running

Handler = Callable[[int, FrameType | None], object] | int | None  # what signal.signal takes and returns

log = logging.getLogger(__name__)

POLL_S = 0.1
HEALTH_EVERY_S = 1.0
LOG_LINES = 30  # of a failed component that has not said why, shown in the error
# An error in one line: of a rank, of a recipe or a server, of a command line that argparse refuses.
TOLD = re.compile(r"(?:\S+ \S+ rank \d+ |\S+: )?error: (.+)")
LAST_BYTES = 4096  # of a log, among which is its last line
LONGEST_WORDS = 80
# A warning of Python's, and lines below another's first: of source code, a list, a traceback.
ASIDE = re.compile(r"\s|.+\.py:\d+: \w+Warning: ")
# What vLLM puts before its messages: "(EngineCore pid=12) INFO 11-27 07:17:52 [core.py:133] "
LEAD = re.compile(r"^(\(\w+ pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] *)?")


class Launcher:
    """Components of one run. Use as a context manager: leaving it, for whatever reason, stops them all.

    Args:
        logs: folder of `<component>.log`; each start appends.
        tell: is told what is waited for, several times a second, and "" once that is over.
    """

    def __init__(self, logs: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.logs, self.tell = logs, tell
        self.running: dict[str, Running] = {}
        self.restarted: Counter[str] = Counter()
        self.handlers: dict[int, Handler] = {}

    def __enter__(self) -> Launcher:
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.handlers[number] = signal.signal(number, self._on_signal)
        # A shell starts background jobs with SIGINT ignored, and Python leaves it so; a run must always be stoppable.
        self.handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def start(self, component: Component) -> None:
        """Starts a component in a session of its own and returns at once."""
        assert component.name not in self.running, f"{component.name} runs already"
        self.running[component.name] = self._spawn(component)

    def wait_ready(self, name: str) -> None:
        """Polls the component's health URL until it answers 200.

        Raises:
            ComponentError: it, or another component, ended; or its time is up.
        """
        self.running[name].question = None  # an answer to an earlier one may be of before it was lost
        started, limit_s = time.monotonic(), self.running[name].component.ready_within_s
        try:
            while not self.running[name].hear():
                self.check()
                waited_s = time.monotonic() - started
                self.tell(f"waiting for {name} ({waited_s:.0f} of at most {limit_s:.0f} s): {self.doing(name)}")
                time.sleep(POLL_S)
        finally:
            self.tell("")
        self.check()  # what answered may be another process on that port

    def wait(self, name: str, tick: Callable[[], None] = lambda: None) -> None:
        """Waits until a component ends well, watching all others.

        Args:
            name: the component.
            tick: called several times a second.

        Raises:
            ComponentError: the component failed, or another one ended. Where one pulls `name` down in its fall, it is
                the one that is named.
        """
        process = self.running[name].process
        while process.poll() is None:
            tick()
            self.check(leave_out=name)
            if problem := self._stopped(self.running[name]):
                raise self._failed(name, problem)
            time.sleep(POLL_S)
        tick()
        if process.returncode != 0:
            self.check(leave_out=name)
            raise self._failed(name, f"ended {describe(process.returncode)}")
        del self.running[name]

    def check(self, leave_out: str = "") -> None:
        """Starts components anew that have ended, or hang, where they may be.

        One that has never been ready, in any of its lives, is not started again: it would fail the same way.

        Raises:
            ComponentError: a component has ended, hangs or does not become ready, and may not be started again.
        """
        for name, running in self.running.items():
            if name == leave_out or not (problem := self._problem(running)):
                continue
            component = running.component
            if not running.proven or self.restarted[name] >= component.restarts:
                raise self._failed(name, problem)
            self.restarted[name] += 1
            log.warning(
                "%s %s%s: restart %d of %d",
                name,
                problem,
                self.reason(name),
                self.restarted[name],
                component.restarts,
            )
            self._end(running)
            self.running[name] = self._spawn(component, proven=True)

    def _problem(self, running: Running) -> str:
        """What is wrong with it, or nothing."""
        component, now = running.component, time.monotonic()
        if (code := running.process.poll()) is not None:
            return f"ended {describe(code)} while the run needed it"
        if problem := self._stopped(running):
            return problem
        if component.health and (running.question or now - running.heard >= HEALTH_EVERY_S):
            running.hear()
        silent = now - running.silent_since if running.silent_since is not None else 0.0
        if running.ready and running.sick and silent > component.sick_within_s:
            return f"says that it is not well: {component.health} has answered with an error for {silent:.0f} s"
        if not running.ready and silent > component.ready_within_s:
            return (
                f"was not ready within {component.ready_within_s:g} s ({component.health} did not answer 200); "
                "run.component_timeout_s sets the limit"
            )
        if running.ready and running.hangs(silent):
            return f"hangs: {component.health} has not answered for {silent:.0f} s (run.hang_timeout_s)"
        return ""

    @staticmethod
    def _stopped(running: Running) -> str:
        """That its wrapper has been stopped for too long, or nothing."""
        pid = running.process.pid
        if not running.watch.is_over(stopped([pid])):
            return ""
        limit_s = running.watch.limit_s
        return f"hangs: its wrapper, process {pid}, has been stopped (SIGSTOP) for {limit_s:g} s (run.hang_timeout_s)"

    def stop(self, name: str = "") -> None:
        """Stops one component or, latest started first, all. Returns when nothing of them is left."""
        for each in [name] if name else list(reversed(self.running)):
            self._end(self.running[each])
            del self.running[each]
        sweep()  # what a wrapper left that was killed

    @staticmethod
    def _end(running: Running) -> None:
        """Returns when nothing of it is left."""
        component, process = running.component, running.process
        if process.poll() is not None:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a wrapper that is stopped would not hear of it
        try:
            process.wait(component.ends_within_s)
        except subprocess.TimeoutExpired:  # the wrapper itself hangs: its group has to go
            log.warning("%s did not stop in %d s: killed", component.name, component.grace_s)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _spawn(self, component: Component, proven: bool = False) -> Running:
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.log_of(component.name), "ab", opener=owner_only) as file:
            log_begins = file.tell()
            process = subprocess.Popen(
                component.wrapped(str(os.getpid())),
                env=os.environ | component.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = not component.health
        return Running(component, process, ready, proven or ready, log_begins)

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _failed(self, name: str, problem: str) -> ComponentError:
        """One line, where the component has said in one what was wrong; else with the last lines of its log."""
        reason, log_file = self.reason(name), self.log_of(name)
        shown = f"{reason} (all of its log: {log_file})" if reason else f"\n{self.tail(name)}"
        return ComponentError(f"{name} {problem}{shown}")

    def doing(self, name: str) -> str:
        """The last line that a component has written since it was started, as far as it tells a person something."""
        with self.log_of(name).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self.running[name].log_begins, end - LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        told = [line for line in lines if not ASIDE.match(line)]
        words = [word for line in told if (word := LEAD.sub("", line).strip()) and any(map(str.isalpha, word))]
        if not words:
            return "loading its libraries"
        return words[-1] if len(words[-1]) <= LONGEST_WORDS else f"{words[-1][:LONGEST_WORDS]}…"

    def reason(self, name: str) -> str:
        """The first error that it has said in one line since it was started, as the end of a sentence, or nothing.

        The first, since what the other ranks say after it are its consequences; however many lines follow it.
        """
        with self.log_of(name).open("rb") as file:
            file.seek(self.running[name].log_begins)
            for line in file:
                if found := TOLD.match(line.decode(errors="replace")):
                    return f": {found[1].strip()}"
        return ""

    def tail(self, name: str) -> str:
        """The last lines of a component's log, for an error message."""
        with self.log_of(name).open(errors="replace") as file:
            lines = deque(file, maxlen=LOG_LINES)
        return f"last lines of {self.log_of(name)}:\n" + "".join(f"  {line.rstrip()}\n" for line in lines)

    @staticmethod
    def _on_signal(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)


def describe(code: int) -> str:
    """An exit status in words."""
    if code == HUNG:
        return "because a process of it hung"
    number = -code if code < 0 else code - 128
    if number > 0 and number in signal.valid_signals():
        return f"by {signal.Signals(number).name}"
    return f"with status {code}"
