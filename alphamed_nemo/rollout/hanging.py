"""Makes a rollout server whose engine hangs say so: vLLM's own /health tells of a dead engine only."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

LIMIT = "ALPHAMED_ROLLOUT_REQUEST_LIMIT_S"  # seconds, after which the trainer gives a request up


class TellHanging:
    """ASGI middleware, loaded by vLLM's `--middleware`: /health answers 503 while a request is older than the limit.

    Whoever sent it has given it up by then. vLLM cancels such a request to sample, but not one to pause the engine,
    which is what the trainer asks for next.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.limit_s = float(os.environ[LIMIT])
        self.since: dict[int, float] = {}  # request → when it came, of those that have no answer yet
        self.numbers = itertools.count()

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == "/health":
            await self._health(scope, receive, send)
        else:
            number = next(self.numbers)
            self.since[number] = time.monotonic()
            try:
                await self.app(scope, receive, send)
            finally:
                del self.since[number]

    async def _health(self, scope: dict, receive: Any, send: Any) -> None:
        oldest = time.monotonic() - min(self.since.values(), default=time.monotonic())
        if oldest <= self.limit_s:
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"a request has waited for {oldest:.0f} s".encode()})
