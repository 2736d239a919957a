"""Starts, watches and stops the components of a run on this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from alphamed_nemo.config.private import owner_only
from alphamed_nemo.errors import ComponentError, Stopped
from alphamed_nemo.launch.child import descendants, sweep
from alphamed_nemo.launch.components import Component

Handler = Callable[[int, FrameType | None], object] | int | None  # what signal.signal takes and returns

log = logging.getLogger(__name__)

POLL_S = 0.1
HEALTH_EVERY_S = 1.0
STOPPED = "T"  # a process that got SIGSTOP or SIGTSTP
LOOKS = 12  # at the processes of a component, in the time after which a stopped one counts as hanging
LOG_LINES = 30  # of a failed component, shown in the error


@dataclass
class Running:
    """A component and the process that it is now.

    Attributes:
        component: what was started.
        process: its wrapper.
        ready: it has answered since it was started.
        proven: it was ready once, in this life or an earlier one.
        asked: when its health was last asked for.
        silent_since: when it was first asked in vain, after its last good answer or its start.
        sick: its last answer was an error: a vLLM whose engine has died says so, and stays.
        looked: when its processes were last looked at.
        stopped_since: when one of them was first found stopped.
    """

    component: Component
    process: subprocess.Popen
    ready: bool
    proven: bool
    asked: float = field(default_factory=time.monotonic)
    silent_since: float | None = None
    sick: bool = False
    looked: float = 0.0
    stopped_since: float | None = None


class Launcher:
    """Components of one run. Use as a context manager: leaving it, for whatever reason, stops them all.

    Args:
        logs: folder of `<component>.log`; each start appends.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
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
        while not self._hear(self.running[name]):
            self.check()
            time.sleep(POLL_S)
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
                raise ComponentError(f"{name} {problem}\n{self.tail(name)}")
            time.sleep(POLL_S)
        tick()
        if process.returncode != 0:
            self.check(leave_out=name)
            raise ComponentError(f"{name} ended {describe(process.returncode)}{self.reason(name)}\n{self.tail(name)}")
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
                raise ComponentError(f"{name} {problem}{self.reason(name)}\n{self.tail(name)}")
            self.restarted[name] += 1
            log.warning("%s %s: restart %d of %d", name, problem, self.restarted[name], component.restarts)
            self._end(running)
            self.running[name] = self._spawn(component, proven=True)

    def _problem(self, running: Running) -> str:
        """What is wrong with it, or nothing."""
        component, now = running.component, time.monotonic()
        if (code := running.process.poll()) is not None:
            return f"ended {describe(code)} while the run needed it"
        if stopped := self._stopped(running):
            return stopped
        if component.health and now - running.asked >= HEALTH_EVERY_S:
            self._hear(running)
        silent = now - running.silent_since if running.silent_since is not None else 0.0
        if running.ready and running.sick and silent > component.sick_within_s:
            return f"says that it is not well: {component.health} has answered with an error for {silent:.0f} s"
        if not running.ready and silent > component.ready_within_s:
            return (
                f"was not ready within {component.ready_within_s:g} s ({component.health} did not answer 200); "
                "run.component_timeout_s sets the limit"
            )
        if running.ready and silent > component.silent_within_s:
            return f"hangs: {component.health} has not answered for {silent:.0f} s (run.hang_timeout_s)"
        return ""

    @staticmethod
    def _stopped(running: Running) -> str:
        """Which of its processes has stopped for too long, or nothing. Its other processes would wait for it."""
        now, limit_s = time.monotonic(), running.component.silent_within_s
        if now - running.looked < limit_s / LOOKS:
            return ""
        running.looked = now
        stopped = descendants(running.process.pid, STOPPED)
        if not stopped:
            running.stopped_since = None
            return ""
        running.stopped_since = running.stopped_since or now
        if now - running.stopped_since <= limit_s:
            return ""
        return f"hangs: process {stopped[0]} of it has been stopped (SIGSTOP) for {limit_s:g} s (run.hang_timeout_s)"

    @staticmethod
    def _hear(running: Running) -> bool:
        """Asks for its health, and notes the answer."""
        running.asked = time.monotonic()
        status = health(running.component.health) if running.component.health else 200
        running.sick = status not in (0, 200)
        if status != 200:
            running.silent_since = running.silent_since or running.asked
            return False
        running.ready = running.proven = True
        running.silent_since = None
        return True

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
        try:
            process.wait(component.ends_within_s)
        except subprocess.TimeoutExpired:  # the wrapper itself hangs (stopped, say): its group has to go
            log.warning("%s did not stop in %d s: killed", component.name, component.grace_s)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _spawn(self, component: Component, proven: bool = False) -> Running:
        self.logs.mkdir(parents=True, exist_ok=True)
        wrapper = [sys.executable, "-IS", str(Path(__file__).with_name("child.py"))]
        with open(self.log_of(component.name), "ab", opener=owner_only) as file:
            process = subprocess.Popen(
                [*wrapper, str(os.getpid()), str(component.grace_s), *component.argv],
                env=os.environ | component.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = not component.health
        return Running(component, process, ready, proven or ready)

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def reason(self, name: str) -> str:
        """What it said was wrong, as the end of a sentence; nothing where none of its last lines says `error:`."""
        with self.log_of(name).open(errors="replace") as file:
            said = [line for line in deque(file, maxlen=LOG_LINES) if "error: " in line]
        return f": {said[-1].partition('error: ')[2].strip()}" if said else ""

    def tail(self, name: str) -> str:
        """The last lines of a component's log, for an error message."""
        with self.log_of(name).open(errors="replace") as file:
            lines = deque(file, maxlen=LOG_LINES)
        return f"last lines of {self.log_of(name)}:\n" + "".join(f"  {line.rstrip()}\n" for line in lines)

    @staticmethod
    def _on_signal(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)


def health(url: str) -> int:
    """The status of GET `url`, 0 without an answer in two seconds, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


def describe(code: int) -> str:
    """An exit status in words."""
    number = -code if code < 0 else code - 128
    if number > 0 and number in signal.valid_signals():
        return f"by {signal.Signals(number).name}"
    return f"with status {code}"
