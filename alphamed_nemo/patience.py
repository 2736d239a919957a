"""How clients of the run's servers wait: which failures may pass, and how long to pause before another try."""

from __future__ import annotations

import random
from collections.abc import Mapping

# Timeout, too early, too many requests, and what a server or a proxy answers while it is overloaded or restarted.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
BUSY = frozenset((429,))  # the server is well and asks to be asked later
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0


def pause_s(attempt: int, headers: Mapping[str, str] | None = None) -> float:
    """Seconds before the try after `attempt` (counted from 1), doubling, and scattered so that clients spread.

    Args:
        headers: of the answer; its Retry-After, in seconds, is the least, up to LONGEST_PAUSE_S.
    """
    pause = min(FIRST_PAUSE_S * 2 ** min(attempt - 1, 10), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
    asked = (headers or {}).get("retry-after", "")
    return max(pause, min(float(asked), LONGEST_PAUSE_S)) if asked.isdecimal() else pause


def found(content: bytes, content_type: str = "") -> str:
    """The start of an unexpected answer, on one line, for a message."""
    text = " ".join(content[:200].decode("utf-8", "replace").split()) + ("…" if len(content) > 200 else "")
    return f"{text or 'nothing'!r}" + (f" ({content_type})" if content_type and "json" not in content_type else "")
