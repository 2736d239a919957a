"""Makes a rollout server answer samples in a sixth of the bytes, where the client accepts it (rollout/completion.py).

One client reads the answers of all nodes, while each of the many HTTP processes of a node writes its own: what is spent
here for each token is a hundredth of what vLLM spends on it.
"""

from __future__ import annotations

from typing import Any

from alphamed_nemo.rollout.completion import compact
from alphamed_nemo.rollout.connection import COMPACT

ACCEPT = (b"accept", COMPACT.encode())


class CompactAnswers:
    """ASGI middleware, loaded by vLLM's `--middleware`. What is no completion passes as it is."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or ACCEPT not in scope["headers"]:
            await self.app(scope, receive, send)
            return
        start: dict = {}
        body = bytearray()

        async def pack(message: dict) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            answer = bytes(body)
            try:
                answer = compact(answer)
            except (ValueError, OverflowError):  # an error's, or one that the client refuses by its own words
                await send(start)
            else:
                headers = [pair for pair in start["headers"] if pair[0] not in (b"content-type", b"content-length")]
                headers += [(b"content-type", COMPACT.encode()), (b"content-length", str(len(answer)).encode())]
                await send(start | {"headers": headers})
            await send({"type": "http.response.body", "body": answer})

        await self.app(scope, receive, pack)
