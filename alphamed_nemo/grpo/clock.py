"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepClock:
    """Wall seconds by phase, from when it is made.

    A step is written down before it is saved: killed in between, it is done again, and never missing. So a save belongs
    to the clock of the step after it.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds = {"checkpoint": 0.0}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what it takes to `seconds[name]`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def stop(self) -> dict[str, float]:
        """All phases, and the whole step."""
        return self.seconds | {"step": time.perf_counter() - self.started}
