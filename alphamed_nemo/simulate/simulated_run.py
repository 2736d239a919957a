"""One run of a scenario, event by event: attempts, steps and saves, and what interrupts them.

Work counts once it is in a checkpoint. What a failure undoes is time lost; everything else has the name of its cause,
and all causes together are the time that has passed.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

import simpy

from alphamed_nemo.simulate.batches import StepTime
from alphamed_nemo.simulate.scenario import NEVER, Scenario

STRAGGLERS, SAVES, LOST, FOUND = "stragglers", "checkpoints", "steps done again", "finding failures"
QUEUE, STARTS, SERVERS = "queue", "starts", "lost servers"

Wait = Generator[simpy.Event, object, None]


class Event(Enum):
    """What may interrupt a run."""

    FATAL = "a GPU or a node fails"
    SERVER = "a rollout server fails"
    EVICTED = "a preemption's notice is over"


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        seconds: until its last step is saved.
        tokens: that it has trained on; steps done again count once.
        spent: cause → seconds; together they are `seconds`.
        events: how often each kind has happened.
    """

    seconds: float
    tokens: float
    spent: dict[str, float]
    events: dict[Event, int]


def simulate_run(scenario: Scenario, seed: int) -> Outcome:
    """Simulates one run; the same seed gives the same run."""
    run = _Run(scenario, seed)
    run.env.run(until=run.process)
    return Outcome(run.env.now, run.tokens, dict(run.spent), dict(run.events))


class _Run:
    """A run and the processes that strike it.

    Attributes:
        exposed: it holds its nodes, so that they can fail.
        saved: steps in the newest checkpoint.
        unsaved: cause → seconds of steps since then, and their tokens.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.env = scenario, simpy.Environment()
        # A stream for each source of chance: what one setting changes leaves the others' draws alone.
        self.steps, self.queue, *strikes = (random.Random(f"{seed} {name}") for name in ("steps", "queue", *Event))
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.unsaved: defaultdict[str, float] = defaultdict(float)
        self.unsaved_tokens = self.tokens = 0.0
        self.events: Counter[Event] = Counter()
        self.saved = self.done = 0
        self.exposed = self.stopping = False
        self.attempt = 0
        self.servers_back = 0.0
        self.process = self.env.process(self._attempts())
        means = {Event.FATAL: scenario.fatal, Event.SERVER: scenario.server_loss, Event.EVICTED: scenario.preemption}
        for (event, mean), draw in zip(means.items(), strikes, strict=True):
            if mean < NEVER:
                self.env.process(self._strike(event, mean, draw))

    def _strike(self, event: Event, mean: float, draw: random.Random) -> Wait:
        """Failures without a memory: exponential times between them."""
        while True:
            yield self.env.timeout(draw.expovariate(1 / mean))
            if not self.exposed or (event is Event.SERVER and self._without_servers()):
                continue
            self.events[event] += 1
            if event is Event.EVICTED:
                self.env.process(self._evict())
            else:
                self.process.interrupt(event)

    def _without_servers(self) -> bool:
        """Whether the only server is being started, so that it cannot fail."""
        return self.scenario.servers == 1 and self.env.now < self.servers_back

    def _evict(self) -> Wait:
        """A preemption: the job begins to stop, and is ended after the notice."""
        attempt, self.stopping = self.attempt, True
        yield self.env.timeout(self.scenario.notice)
        if self.exposed and self.attempt == attempt:
            self.process.interrupt(Event.EVICTED)

    def _attempts(self) -> Wait:
        while self.saved < self.scenario.steps:
            if self.attempt:
                yield from self._spend(QUEUE, self.queue.expovariate(1) * self.scenario.requeue)
            self.attempt += 1
            self.exposed, self.stopping = True, False
            try:
                yield from self._attempt()
                self.exposed = False
            except simpy.Interrupt as interrupt:
                self.exposed = False
                self._lose()
                if interrupt.cause is Event.FATAL:
                    yield from self._spend(FOUND, self.scenario.detect)

    def _attempt(self) -> Wait:
        """From the newest checkpoint until the run is complete or the job has to stop."""
        began = self.env.now
        yield from self._spend(STARTS, self.scenario.start + (self.scenario.load if self.saved else 0.0))
        while self.done < self.scenario.steps:
            yield from self._step()
            stop = self.stopping or self.env.now - began >= self.scenario.limit - self.scenario.notice
            if stop or self.done % self.scenario.save_every == 0 or self.done == self.scenario.steps:
                yield from self._save()
            if stop:
                return

    def _spend(self, cause: str, seconds: float) -> Wait:
        """Time in which a lost server changes nothing, and whatever else strikes ends the attempt."""
        end = self.env.now + seconds
        while True:
            began = self.env.now
            try:
                yield self.env.timeout(end - began)
                self.spent[cause] += self.env.now - began
                return
            except simpy.Interrupt as interrupt:
                self.spent[cause] += self.env.now - began
                if not self._survives(interrupt):
                    raise

    def _survives(self, interrupt: simpy.Interrupt) -> bool:
        """Whether the attempt goes on: without a server it does."""
        if interrupt.cause is not Event.SERVER:
            return False
        self.servers_back = self.env.now + self.scenario.server_start
        return True

    def _step(self) -> Wait:
        time, scenario = self.steps.choice(self.scenario.times), self.scenario
        if self._without_servers():
            yield from self._spend(SERVERS, self.servers_back - self.env.now)
        parts = defaultdict(float, time.parts)
        parts[STRAGGLERS] = scenario.straggler * slowest_of(scenario.nodes, self.steps) * time.paced
        if self.env.now < self.servers_back:
            parts[SERVERS] = self._shared_out(time)
        yield from self._work(time, parts)
        self._keep(self.unsaved, parts)
        self.unsaved_tokens += time.tokens
        self.done += 1

    def _work(self, time: StepTime, parts: defaultdict[str, float]) -> Wait:
        """The step itself. Servers that are lost while they sample make it longer, which is added to `parts`."""
        began = sampled = self.env.now  # since when the servers sample this batch
        end, sampling = began + sum(parts.values()), began + time.sampling + parts[SERVERS]
        while True:
            try:
                yield self.env.timeout(end - self.env.now)
                return
            except simpy.Interrupt as interrupt:
                if not self._survives(interrupt):
                    self.spent[LOST] += self.env.now - began
                    raise
            if self.env.now < sampling:
                more = self._begun_anew(sampled) if self.scenario.servers == 1 else self._shared_out(time)
                sampled = self.servers_back
                parts[SERVERS] += more
                end, sampling = end + more, sampling + more

    def _begun_anew(self, sampled: float) -> float:
        """How much longer a batch takes whose sampling began at `sampled`, and begins again with the only server."""
        return self.servers_back - sampled

    def _shared_out(self, time: StepTime) -> float:
        """How much longer sampling takes while one server's share of it is done by the others."""
        return time.sampling / (self.scenario.servers - 1)

    def _save(self) -> Wait:
        """Training waits for it; what it holds counts once it is complete."""
        before = self.spent[SAVES]
        try:
            yield from self._spend(SAVES, self.scenario.save)
        except simpy.Interrupt:
            self.spent[LOST] += self.spent[SAVES] - before
            self.spent[SAVES] = before
            raise
        self._keep(self.spent, self.unsaved)
        self.tokens += self.unsaved_tokens
        self.saved = self.done
        self._forget()

    @staticmethod
    def _keep(into: defaultdict[str, float], parts: defaultdict[str, float]) -> None:
        for cause, seconds in parts.items():
            into[cause] += seconds

    def _lose(self) -> None:
        self.spent[LOST] += sum(self.unsaved.values())
        self.done = self.saved
        self._forget()

    def _forget(self) -> None:
        self.unsaved.clear()
        self.unsaved_tokens = 0.0


def slowest_of(nodes: int, draw: random.Random) -> float:
    """The largest of so many exponential numbers of mean 1, from one number: P(all <= x) = (1 - exp(-x)) ** nodes."""
    return -math.log(-math.expm1(math.log(1 - draw.random()) / nodes))
