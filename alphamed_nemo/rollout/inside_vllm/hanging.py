"""Makes a rollout server whose engine hangs say so: vLLM's own /health tells of a dead engine only."""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT = "ALPHAMED_ROLLOUT_REQUEST_LIMIT_S"  # seconds, after which the trainer gives a request up
WAITING = "ALPHAMED_ROLLOUT_WAITING"  # folder in which each HTTP process of one server says since when it waits


class TellHanging:
    """ASGI middleware, loaded by vLLM's `--middleware`: /health answers 503 while a request is older than the limit.

    Whoever sent it has given it up by then. vLLM cancels such a request to sample, but not one to pause the engine,
    which is what the trainer asks for next. Where several processes answer (`rollout.api_servers`), only one of them
    has that request and any of them is asked for the health, so they tell each other.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.limit_s = float(os.environ[LIMIT])
        self.since: dict[int, float] = {}  # request → when it came, of those that have no answer yet, oldest first
        self.numbers = itertools.count()
        self.folder = Path(os.environ[WAITING])
        self.file, _ = tempfile.mkstemp(dir=self.folder)
        self._tell()

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == "/health":
            await self._health(scope, receive, send)
        else:
            number = next(self.numbers)
            self.since[number] = time.monotonic()
            self._tell()
            try:
                await self.app(scope, receive, send)
            finally:
                del self.since[number]
                self._tell()

    def _tell(self) -> None:
        oldest = next(iter(self.since.values()), float("inf"))
        os.pwrite(self.file, struct.pack("d", oldest), 0)

    async def _health(self, scope: dict, receive: Any, send: Any) -> None:
        said = [path.read_bytes() for path in self.folder.iterdir()]
        oldest = min(struct.unpack("d", since)[0] for since in said if since)  # a process that just starts: nothing yet
        waited = time.monotonic() - oldest  # one clock for all processes
        if waited <= self.limit_s:
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"a request has waited for {waited:.0f} s".encode()})
