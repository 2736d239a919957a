"""Answers say which start of a server gave them, over ASGI as vLLM runs it."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from urllib3 import HTTPResponse

from alphamed_nemo.access import RequireKey
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost
from alphamed_nemo.rollout.inside_vllm.instance import IDENTITY, INSTANCE, TellInstance


async def engine(scope: dict, receive, send) -> None:
    """What answers behind the middleware, websockets' close included."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"{}"})


def test_every_answer_names_the_start_refusals_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDENTITY, "abc")
    app = TellInstance(RequireKey(engine, "key"))

    async def answers() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
            refused = await client.post("/pause")
            return [refused, await client.post("/pause", headers={"Authorization": "Bearer key"})]

    refused, taken = asyncio.run(answers())
    assert (refused.status_code, taken.status_code) == (401, 200)
    assert refused.headers[INSTANCE] == taken.headers[INSTANCE] == "abc" and taken.headers["x-own"] == "1"


def test_what_is_no_http_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDENTITY, "abc")
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(TellInstance(engine)({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1000}]


def connection_to(*answers: HTTPResponse) -> Connection:
    """To a server that gives these answers in turn."""
    left = iter(answers)
    connection = Connection("http://127.0.0.1:9", "key", 1.0, retries=0)
    connection._request = lambda *_, **__: next(left)
    return connection


def by(start: str) -> HTTPResponse:
    """An answer of that start of a server."""
    return HTTPResponse(b"{}", headers={INSTANCE: start} if start else {}, status=200)


def test_an_error_outside_of_the_middleware_says_nothing_of_who_answers():
    connection = connection_to(by("abc"), HTTPResponse(b"it failed", status=500), by(""))
    connection.call("GET", "/weight_info", "the version")
    with pytest.raises(RolloutError, match="HTTP 500: .it failed"):
        connection.call("POST", "/update_weights", "an update")
    assert connection.instance == "abc"
    with pytest.raises(RolloutLost, match="another server was started"):
        connection.call("GET", "/weight_info", "the version")


def test_of_two_starts_that_nobody_knew_the_first_is_known():
    """The later one was asked before the first had answered, and has other weights."""
    connection = connection_to()

    def answer(*_: object, **__: object) -> HTTPResponse:
        connection._request = lambda *_, **__: by("first")
        connection.call("GET", "/weight_info", "the version")
        return by("second")

    connection._request = answer
    with pytest.raises(RolloutLost, match="another server was started"):
        connection.call("GET", "/weight_info", "the version")
    assert connection.instance == "first"


def test_nothing_is_asked_of_a_server_that_is_lost_but_whether_it_is_back():
    connection = connection_to(by("first"), by("second"))
    connection.call("GET", "/weight_info", "the version")
    connection.lose("it was killed")
    with pytest.raises(RolloutLost, match="it was killed"):
        connection.call("POST", "/v1/completions", "samples")
    connection.call("GET", "/weight_info", "the version", anew=True)
    assert (connection.instance, connection.lost) == ("second", "it was killed")


def test_a_server_that_is_back_is_not_lost_for_what_was_asked_of_it_before():
    connection = connection_to(by("first"), by("second"))
    connection.call("GET", "/weight_info", "the version")
    asked = connection.instance
    connection.lose("connection reset", of=asked)
    connection.call("GET", "/weight_info", "the version", anew=True)
    connection.rejoin()
    connection.lose("no answer within 600 s", of=asked)
    assert not connection.lost
    connection.lose("connection reset", of="second")
    assert connection.lost == "connection reset"
