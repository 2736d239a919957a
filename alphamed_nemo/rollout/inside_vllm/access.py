"""Access to the rollout server: every path but /health needs the key.

vLLM's own check guards the OpenAI paths only; the weight and pause endpoints would be open to whoever reaches the port.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

OPEN_PATHS = ("/health",)


class RequireKey:
    """ASGI middleware, loaded by vLLM's `--middleware`. The key comes from VLLM_API_KEY."""

    def __init__(self, app: Any) -> None:
        self.app = app
        key = os.environ.get("VLLM_API_KEY", "")
        if not key:
            raise ValueError("VLLM_API_KEY is empty; the rollout server does not run without a key")
        self.digest = _digest(f"Bearer {key}".encode())

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._allowed(scope):
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": "missing or wrong API key"}'})

    def _allowed(self, scope: dict) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(_digest(sent), self.digest)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
