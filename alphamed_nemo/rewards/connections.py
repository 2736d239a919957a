"""Connections that wait for their client: each for a limited time, and never so many that others find no room.

uvicorn leaves slow ones open for ever (a request that trickles in, an answer that is not read), and its own limit to
connections answers 503 to everybody, /health included.
"""

from __future__ import annotations

import asyncio
import resource
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0  # from the first byte (or the connection, or the answer before) to the last byte of a request
READ_SECONDS = 30.0  # for the other side to take the answer
BACKLOG = 512  # connections that the kernel accepts before this process does
OTHER_FILES = BACKLOG + 64  # descriptors that are not for connections, or for those of one burst


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol (h11, which bounds the size of headers) whose patience ends.

    Near the process's limit of file descriptors, a new connection takes the place of the one that has waited longest
    for its client; a request that is complete is never dropped.
    """

    waiting: ClassVar[dict[PatientProtocol, None]] = {}  # for their clients, the longest first
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._arm(REQUEST_SECONDS)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES:
            longest = next(iter(self.waiting))
            longest._disarm()
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm(READ_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _settle(self) -> None:
        """Waits for the client, unless its request is complete."""
        if self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
            self._disarm()
        elif self._timer is None and not self.transport.is_closing():
            self._arm(REQUEST_SECONDS)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
        self.waiting[self] = None

    def _disarm(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
