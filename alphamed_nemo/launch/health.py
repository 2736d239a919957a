"""Asking a server for its health, and telling one that works slowly from one that hangs.

On a crowded machine a server that works may be slow to answer. So a question waits for its answer for as long as the
silence may last, and a server that has not answered in that time hangs only if its processes have hardly computed.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request

from alphamed_nemo.launch.child import status_of

TICKS_PER_S = 100  # of the times in /proc/<pid>/stat, on every architecture of Linux that torch has wheels for
# Share of a core. An idle vLLM takes 2%; one that works and shares 2 cores with 16 others still gets 12%.
WORKING = 0.05
LOUD_S = 2.0  # an answer that takes longer begins a silence


class Question:
    """One GET of a health URL, in a thread of its own so that nobody has to wait for a slow answer.

    Attributes:
        asked: when.
        status: of the answer; 0: there was none; None: there may be one yet.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self.asked = time.monotonic()
        self.status: int | None = None
        threading.Thread(target=self._ask, args=(url, patience_s), daemon=True).start()

    def _ask(self, url: str, patience_s: float) -> None:
        self.status = health(url, patience_s)

    @property
    def silent(self) -> bool:
        """Whether the answer is long in coming."""
        return self.status is None and time.monotonic() - self.asked > LOUD_S


def health(url: str, patience_s: float) -> int:
    """The status of GET `url`, 0 without an answer in so many seconds, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=patience_s) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


def computed_s(pids: list[int]) -> float:
    """Seconds of CPU that these processes have used, all their threads together."""
    return sum(int(ticks) for pid in pids for ticks in status_of(pid)[11:13]) / TICKS_PER_S  # user's and system's


class Work:
    """What some processes have computed since a moment."""

    def __init__(self, pids: list[int]) -> None:
        self.since, self.used = time.monotonic(), computed_s(pids)

    def seconds(self, pids: list[int]) -> float:
        return max(0.0, computed_s(pids) - self.used)  # less where one of them has ended

    def goes_on(self, pids: list[int]) -> bool:
        return self.seconds(pids) > WORKING * (time.monotonic() - self.since)
