"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepClock:
    """Wall seconds by phase, from when it is made.

    The time of a save is in the step after it, since a step is written down before it is saved: killed in between, it
    is done again, and never missing.

    Args:
        earlier: seconds of the save after the last step.
    """

    def __init__(self, earlier: float = 0.0) -> None:
        self.started = time.perf_counter()
        self.seconds = {"checkpoint": earlier}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what it takes to `seconds[name]`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def stop(self) -> dict[str, float]:
        """All phases, and the whole step."""
        return self.seconds | {"step": time.perf_counter() - self.started + self.seconds["checkpoint"]}
