"""The rollout server's health while its engine does not answer, over ASGI as vLLM runs it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from alphamed_nemo.rollout.hanging import LIMIT, TellHanging


async def engine(scope: dict, receive, send) -> None:
    """Healthy whatever happens, as vLLM with a stopped engine is; /pause is never answered."""
    if scope["path"] == "/pause":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def health_beside_an_unanswered_request() -> int:
    transport = httpx.ASGITransport(TellHanging(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        assert (await client.post("/resume")).status_code == 200
        assert (await client.get("/health")).status_code == 200
        waiting = asyncio.create_task(client.post("/pause"))
        await asyncio.sleep(0)  # lets it be sent
        while not transport.app.since:
            await asyncio.sleep(0)
        found = (await client.get("/health")).status_code
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await client.get("/health")).status_code == 200
        return found


@pytest.mark.parametrize(("limit_s", "status"), [("0", 503), ("3600", 200)])
def test_a_request_older_than_the_limit_makes_the_server_unwell(monkeypatch, limit_s: str, status: int) -> None:
    monkeypatch.setenv(LIMIT, limit_s)
    assert asyncio.run(health_beside_an_unanswered_request()) == status
