"""Who may use a server: the key on every path and kind of connection, and which addresses need one."""

from __future__ import annotations

import asyncio

import pytest

from alphamed_nemo.access import RequireKey
from alphamed_nemo.config.hosts import is_every_interface, is_loopback


async def application(scope: dict, receive, send) -> None:
    await send({"type": "reached"})


def sent_to(kind: str, path: str, authorization: bytes | None) -> list[dict]:
    """What the client of a connection gets."""
    headers = [] if authorization is None else [(b"authorization", authorization)]
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    asyncio.run(RequireKey(application, "right")({"type": kind, "path": path, "headers": headers}, receive, send))
    return sent


@pytest.mark.parametrize("authorization", [None, b"", b"right", b"Bearer wrong", b"bearer right", b"Bearer right "])
@pytest.mark.parametrize("path", ["/", "/score", "/health/", "//health", "/health/x", "/HEALTH", "/v1/completions"])
def test_without_the_key_nothing_is_reached(path: str, authorization: bytes | None) -> None:
    assert sent_to("http", path, authorization)[0]["status"] == 401
    assert sent_to("websocket", path, authorization) == [{"type": "websocket.close", "code": 1008}]


def test_with_the_key_everything_is_reached_and_health_without() -> None:
    reached = [{"type": "reached"}]
    assert sent_to("http", "/score", b"Bearer right") == sent_to("websocket", "/x", b"Bearer right") == reached
    assert sent_to("http", "/health", None) == reached
    assert sent_to("websocket", "/health", None) != reached
    assert asyncio.run(lifespan()) == reached


async def lifespan() -> list[dict]:
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    await RequireKey(application, "right")({"type": "lifespan"}, None, send)
    return sent


def test_a_server_without_a_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="VLLM_API_KEY"):
        RequireKey(application)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host) and not is_every_interface(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "0x0", "0.0", "::", "[::]", "::0", "0::0", "::ffff:0.0.0.0", "", "*"])
def test_every_interface(host: str) -> None:
    assert is_every_interface(host) and not is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.7", "node7", "gpu1.cluster", "fe80::1", "127.0.0.1.example.org"])
def test_other_addresses_are_reachable_and_not_everywhere(host: str) -> None:
    assert not is_loopback(host) and not is_every_interface(host)
