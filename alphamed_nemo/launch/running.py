"""A component that has been started: how it answers, and whether it hangs."""

from __future__ import annotations

import logging
import subprocess
import time
from dataclasses import dataclass, field

from alphamed_nemo.launch.child import StopWatch, descendants
from alphamed_nemo.launch.components import Component
from alphamed_nemo.launch.health import Question, Work

LONGEST_WORK = 10  # times the limit of silence: a server that computes for so long without an answer hangs as well

log = logging.getLogger(__name__)


@dataclass
class Running:
    """A component and the process that it is now.

    Attributes:
        component: what was started.
        process: its wrapper.
        ready: it has answered since it was started.
        proven: it was ready once, in this life or an earlier one.
        log_begins: where in its log the words of this life begin, in bytes.
        heard: when its last answer came, or it was started.
        question: the one for its health that has no answer yet.
        silent_since: when it was first asked in vain, after its last good answer or its start.
        work: what its processes have computed in this silence, or in the part of it that was not yet looked at.
        sick: its last answer was an error: a vLLM whose engine has died says so, and stays.
        watch: on the wrapper itself, should it be stopped; the wrapper looks at all that is below it.
    """

    component: Component
    process: subprocess.Popen
    ready: bool
    proven: bool
    log_begins: int = 0
    heard: float = field(default_factory=time.monotonic)
    question: Question | None = None
    silent_since: float | None = None
    work: Work | None = None
    sick: bool = False
    watch: StopWatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = StopWatch(self.component.silent_within_s)

    def hear(self) -> bool:
        """Asks for its health, unless an answer is still to come, and takes the answer that is there. Does not wait.

        Returns:
            Whether a good answer has come.
        """
        if not self.component.health:
            return True
        if self.question is None:
            self.question = Question(self.component.health, self.component.silent_within_s)
        if self.question.silent:
            self._be_silent(self.question.asked)
        if (status := self.question.status) is None:
            return False
        asked, self.question, self.heard = self.question.asked, None, time.monotonic()
        self.sick = status not in (0, 200)
        if status != 200:
            self._be_silent(asked)
            return False
        if self.ready and self.silent_since is not None:
            log.info("%s answers again", self.component.name)
        self.ready = self.proven = True
        self.silent_since = self.work = None
        return True

    def _be_silent(self, since: float) -> None:
        if self.silent_since is None:
            self.silent_since, self.work = since, Work(self.pids)

    @property
    def pids(self) -> list[int]:
        return descendants(self.process.pid)

    def hangs(self, silent_s: float) -> bool:
        """Whether a server that has been silent for so long hangs; not while it computes."""
        limit_s = self.component.silent_within_s
        if silent_s <= limit_s or self.work is None or time.monotonic() - self.work.since <= limit_s:
            return False
        if silent_s > LONGEST_WORK * limit_s or not self.work.goes_on(self.pids):
            return True
        if silent_s <= 2 * limit_s:  # said once
            log.warning(
                "%s: %s has not answered for %.0f s, but its processes have computed for %.0f s meanwhile: waiting",
                self.component.name,
                self.component.health,
                silent_s,
                self.work.seconds(self.pids),
            )
        self.work = Work(self.pids)
        return False
