"""Access to the servers of a run: every path but /health needs the key, over HTTP and websockets alike.

vLLM's own check guards the OpenAI paths only; the weight and pause endpoints would be open to whoever reaches the port.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

OPEN_PATHS = ("/health",)
REFUSAL = b'{"detail": "missing or wrong API key: expected the header \'Authorization: Bearer <api_key>\'"}'


class RequireKey:
    """ASGI middleware. Where no key is given, as by vLLM's `--middleware`, it comes from VLLM_API_KEY."""

    def __init__(self, app: Any, key: str = "") -> None:
        self.app = app
        key = key or os.environ.get("VLLM_API_KEY", "")
        if not key:
            raise ValueError("VLLM_API_KEY is empty; the rollout server does not run without a key")
        self.digest = _digest(f"Bearer {key}".encode())

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or self._open(scope) or self._allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:  # a websocket that is closed before it was accepted is refused with 403
            await send({"type": "websocket.close", "code": 1008})

    def _open(self, scope: dict) -> bool:
        return scope["type"] == "http" and scope["path"] in OPEN_PATHS

    def _allowed(self, scope: dict) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(_digest(sent), self.digest)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
