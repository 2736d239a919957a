"""The rollout server's health while its engine does not answer, over ASGI as vLLM runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from alphamed_nemo.rollout.inside_vllm.hanging import LIMIT, WAITING, TellHanging


async def engine(scope: dict, receive, send) -> None:
    """Healthy whatever happens, as vLLM with a stopped engine is; /pause is never answered."""
    if scope["path"] == "/pause":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def client_of(api_server: TellHanging) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api_server), base_url="http://engine")


async def health_beside_an_unanswered_request(asked: str) -> int:
    servers = {"the one that has it": TellHanging(engine), "another": TellHanging(engine)}
    having, asks = servers["the one that has it"], servers[asked]
    async with client_of(having) as client, client_of(asks) as other:
        assert (await client.post("/resume")).status_code == 200
        assert (await other.get("/health")).status_code == 200
        waiting = asyncio.create_task(client.post("/pause"))
        while not having.since:
            await asyncio.sleep(0)  # lets it be sent
        assert (await client.post("/resume")).status_code == 200  # a later request and its answer change nothing
        found = (await other.get("/health")).status_code
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await other.get("/health")).status_code == 200
        return found


@pytest.mark.parametrize("asked", ["the one that has it", "another"])
@pytest.mark.parametrize(("limit_s", "status"), [("0", 503), ("3600", 200)])
def test_a_request_older_than_the_limit_makes_the_server_unwell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit_s: str, status: int, asked: str
) -> None:
    monkeypatch.setenv(LIMIT, limit_s)
    monkeypatch.setenv(WAITING, str(tmp_path))
    assert asyncio.run(health_beside_an_unanswered_request(asked)) == status


@pytest.mark.parametrize("asked", ["the one that has it", "another"])
def test_an_engine_that_samples_slowly_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str
) -> None:
    """A request is an hour old when the health is asked for; tokens of it came a minute ago, or an hour."""
    monkeypatch.setenv(LIMIT, "300")
    monkeypatch.setenv(WAITING, str(tmp_path))
    clock = Clock()
    monkeypatch.setattr("alphamed_nemo.rollout.inside_vllm.hanging.time", clock)
    having, other = TellHanging(engine), TellHanging(engine)
    server = having if asked == "the one that has it" else other

    async def healths() -> list[int]:
        async with client_of(having) as client, client_of(server) as asking:
            waiting = asyncio.create_task(client.post("/pause"))
            while not having.since:
                await asyncio.sleep(0)
            found = []
            for tokens_after_s, asked_after_s in ((3540, 60), (0, 230), (0, 20), (5, 0)):
                clock.now += tokens_after_s
                if tokens_after_s:
                    having.engine_answered()
                clock.now += asked_after_s
                found.append((await asking.get("/health")).status_code)
            waiting.cancel()
            return found

    assert asyncio.run(healths()) == [200, 200, 503, 200]


class Clock:
    """time.monotonic, moved by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_an_http_process_that_just_starts_does_not_disturb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LIMIT, "60")
    monkeypatch.setenv(WAITING, str(tmp_path))
    server = TellHanging(engine)
    (tmp_path / "new").touch()

    async def health() -> int:
        async with client_of(server) as client:
            return (await client.get("/health")).status_code

    assert asyncio.run(health()) == 200
