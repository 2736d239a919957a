"""Makes every answer of a rollout server say which start of the server gave it.

A server that is started again serves the weights of its folder, under the same address. A client that knows whom it
asked can tell its answers apart, request by request.
"""

from __future__ import annotations

import os
from typing import Any

INSTANCE = "x-alphamed-instance"  # header
IDENTITY = "ALPHAMED_ROLLOUT_INSTANCE"  # set by main.py, for all HTTP processes of one start


class TellInstance:
    """ASGI middleware, loaded by vLLM's `--middleware`. The last one given, so that refusals carry the header, too."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.header = (INSTANCE.encode(), os.environ[IDENTITY].encode())

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def tell(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self.header]
            await send(message)

        await self.app(scope, receive, tell)
