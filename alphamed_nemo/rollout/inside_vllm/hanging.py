"""Makes a rollout server whose engine hangs say so: vLLM's own /health tells of a dead engine only."""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

from alphamed_nemo.rollout.inside_vllm.replaced import replaces

LIMIT = "ALPHAMED_ROLLOUT_REQUEST_LIMIT_S"  # seconds, after which the trainer gives a request up
WAITING = "ALPHAMED_ROLLOUT_WAITING"  # folder in which each HTTP process of one server says since when it waits
TELL_EVERY_S = 1.0  # that an engine has answered, to the other HTTP processes
NEVER = float("-inf")


class TellHanging:
    """ASGI middleware, loaded by vLLM's `--middleware`: /health answers 503 while a request has waited for longer than
    the limit, and no token of any request has come from an engine for as long.

    Whoever sent the request has given it up by then. vLLM cancels such a request to sample, but not one to pause the
    engine, which is what the trainer asks for next. An engine that samples, only slowly on a crowded machine, does not
    hang. Where several processes answer (`rollout.api_servers`), only one of them has that request and any of them is
    asked for the health, so they tell each other.
    """

    of_this_process: WeakSet[TellHanging] = WeakSet()

    def __init__(self, app: Any) -> None:
        self.app = app
        self.limit_s = float(os.environ[LIMIT])
        self.since: dict[int, float] = {}  # request → when it came, of those that have no answer yet, oldest first
        self.numbers = itertools.count()
        self.answered = self.told = NEVER  # when an engine gave tokens, and when that was last told
        self.folder = Path(os.environ[WAITING])
        self.file, _ = tempfile.mkstemp(dir=self.folder)
        self._tell()
        self.of_this_process.add(self)

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

    def engine_answered(self) -> None:
        """That tokens have come from an engine."""
        self.answered = time.monotonic()
        if self.answered - self.told > TELL_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        oldest = next(iter(self.since.values()), float("inf"))
        self.told = time.monotonic()
        os.pwrite(self.file, struct.pack("dd", oldest, self.answered), 0)

    async def _health(self, scope: dict, receive: Any, send: Any) -> None:
        said = [path.read_bytes() for path in self.folder.iterdir()]
        told = [struct.unpack("dd", times) for times in said if times]  # a process that just starts: nothing yet
        oldest = min(since for since, _ in told)
        waited = time.monotonic() - max(oldest, *(answered for _, answered in told))  # one clock for all processes
        if waited <= self.limit_s:
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
        reason = f"a request has waited for {waited:.0f} s without a token"
        await send({"type": "http.response.body", "body": reason.encode()})


def register() -> None:
    """Lets the HTTP front notice what its engines answer. Once a process."""
    from vllm.v1.engine.output_processor import OutputProcessor

    @replaces(OutputProcessor, "process_outputs")
    def process_outputs(original, self, *args, **kwargs):
        for server in TellHanging.of_this_process:
            server.engine_answered()
        return original(self, *args, **kwargs)
