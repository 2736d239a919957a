"""How clients of the run's servers wait: which failures may pass, and how long to pause before another try."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping

# Timeout, too early, too many requests, and what a server or a proxy answers while it is overloaded or restarted.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
BUSY = frozenset((429,))  # the server is well and asks to be asked later
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# Not the common generator: its state is part of a run's checkpoints, and a run that had to wait draws what others draw.
SCATTER = random.Random()

log = logging.getLogger(__name__)


class Trouble:
    """Says when requests to a server begin to fail and when they work again: one line for each, however many requests
    fail, and are tried again, in between. Thread-safe.

    Args:
        server: what messages call it.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.since: float | None = None  # the clock of time.monotonic; None: there is no trouble
        self.lock = threading.Lock()

    def begins(self, problem: str) -> None:
        """A request has failed, and is tried again."""
        with self.lock:
            if self.since is None:
                log.warning("%s: %s", self.server, problem)
            self.since = time.monotonic()

    def is_over(self, begun: float) -> None:
        """A request that was sent at `begun` has worked. One that was sent before the last failure tells nothing."""
        if self.since is None:  # as nearly always; a lock would be asked for at every answer
            return
        with self.lock:
            if self._is_before(begun):
                log.info("%s answers again", self.server)
                self.since = None

    def _is_before(self, begun: float) -> bool:
        return self.since is not None and self.since <= begun

    def known(self) -> None:
        """What follows is said in other words."""
        with self.lock:
            self.since = None


def pause_s(attempt: int, headers: Mapping[str, str] | None = None) -> float:
    """Seconds before the try after `attempt` (counted from 1), doubling, and scattered so that clients spread.

    Args:
        headers: of the answer; its Retry-After, in seconds, is the least, up to LONGEST_PAUSE_S.
    """
    pause = min(FIRST_PAUSE_S * 2 ** min(attempt - 1, 10), LONGEST_PAUSE_S) * SCATTER.uniform(0.5, 1.0)
    asked = (headers or {}).get("retry-after", "")
    return max(pause, min(float(asked), LONGEST_PAUSE_S)) if asked.isdecimal() else pause


def found(content: bytes, content_type: str = "") -> str:
    """The start of an unexpected answer, on one line, for a message."""
    text = " ".join(content[:200].decode("utf-8", "replace").split()) + ("…" if len(content) > 200 else "")
    return f"{text or 'nothing'!r}" + (f" ({content_type})" if content_type and "json" not in content_type else "")
