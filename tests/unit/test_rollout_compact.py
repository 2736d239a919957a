"""Samples travel as arrays where the client accepts it, and are the same rollouts."""

from __future__ import annotations

import asyncio
import json
import math
import random
from array import array

import httpx
import msgspec
import pytest

from alphamed_nemo.rollout.completion import Completion, compact, rollout_of
from alphamed_nemo.rollout.connection import COMPACT, RolloutError
from alphamed_nemo.rollout.inside_vllm.compact import CompactAnswers

TOKENS = 200
PROMPT = [1, 128_000, 7]


def answered(tokens: int = TOKENS) -> dict:
    """Two samples as vLLM 0.32 sends them, log-probs in float32 from -9999 (minus infinity) to 0."""
    draw = random.Random(tokens)

    def sample(index: int) -> dict:
        words = [draw.choice((" the", "ä", "\u2028", ' "', "\U0001f9ec")) for _ in range(tokens)]
        logprobs = array("f", [-9999.0, 0.0, *(-draw.expovariate(3) for _ in words)][:tokens]).tolist()
        return {
            "index": index,
            "text": "".join(words),
            "prompt_token_ids": PROMPT,
            "token_ids": [draw.randrange(128_256) for _ in words],
            "finish_reason": ["stop", "length"][index],
            "stop_reason": None,
            "logprobs": {
                "text_offset": [*range(tokens)],
                "token_logprobs": logprobs,
                "tokens": words,
                "top_logprobs": [{word: value} for word, value in zip(words, logprobs, strict=True)],
            },
            "prompt_logprobs": None,
        }

    return {"id": "cmpl-1", "object": "text_completion", "choices": [sample(1), sample(0)]}


def ask(body: bytes, accept: str = COMPACT, status: int = 200, pieces: int = 1) -> httpx.Response:
    """What a client gets from a server that answers with this body, in so many pieces."""

    async def vllm(scope: dict, receive, send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        size = -(-len(body) // pieces)
        for start in range(0, len(body), size):
            more = start + size < len(body)
            await send({"type": "http.response.body", "body": body[start : start + size], "more_body": more})

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(CompactAnswers(vllm))
        async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as client:
            return await client.post("/v1/completions", headers={"accept": accept})

    return asyncio.run(answer())


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_same_rollouts_in_a_sixth_of_the_bytes(pieces: int):
    body = json.dumps(answered()).encode()
    response = ask(body, pieces=pieces)
    assert (response.headers["content-type"], response.headers["x-own"]) == (COMPACT, "1")
    assert int(response.headers["content-length"]) == len(response.content) < len(body) / 6
    packed = msgspec.msgpack.decode(response.content, type=Completion)
    plain = msgspec.json.decode(body, type=Completion)
    for a, b in zip(packed.choices, plain.choices, strict=True):
        rollout = rollout_of(a, PROMPT, 3, TOKENS, 128_256)
        assert rollout == rollout_of(b, PROMPT, 3, TOKENS, 128_256)
        assert b.logprobs is not None
        assert (rollout.response_ids.tolist(), rollout.logprobs.tolist()) == (b.token_ids, b.logprobs.token_logprobs)
        assert array("i", a.prompt_token_ids).tolist() == PROMPT


def changed(**change: object) -> bytes:
    answer = answered(3)
    answer["choices"][0] |= change
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error": {"message": "no such model"}}', 404),
        (b"<html>", 502),
        (b'{"weight_version": "3"}', 200),
        (changed(token_ids=[1, 2, 2**31]), 200),
        (changed(logprobs={"token_logprobs": [-1.0, None, -1.0]}), 200),
        (changed(text=None), 200),
    ],
)
def test_what_is_no_completion_passes_as_it_is(body: bytes, status: int):
    response = ask(body, status=status)
    assert (response.status_code, response.content) == (status, body)
    assert response.headers["content-type"] == "application/json"


def test_a_client_that_does_not_accept_it_gets_json():
    body = json.dumps(answered()).encode()
    assert ask(body, accept="*/*").content == body


def test_what_is_no_http_passes_as_it_is():
    seen: list[str] = []

    async def app(scope: dict, receive, send) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        asyncio.run(CompactAnswers(app)({"type": kind, "headers": []}, None, None))
    assert seen == ["lifespan", "websocket"]


@pytest.mark.parametrize(
    ("ids", "logprobs", "message"),
    [
        (b"123", bytes(4), "token ids that are no 32-bit integers"),
        (bytes(4), b"123", "log-probs that are no 32-bit numbers"),
        (bytes(8), bytes(4), "a sample of 2 tokens with 1 log-probs"),
        (array("i", [-1]).tobytes(), bytes(4), "found token id -1, expected 0 to 9"),
        (array("i", [10]).tobytes(), bytes(4), "found token id 10, expected 0 to 9"),
        (bytes(4), array("f", [math.nan]).tobytes(), "found log-prob nan, expected -10000 to 0"),
        (bytes(8), array("f", [-math.inf, 0.0]).tobytes(), "found log-prob -inf, expected -10000 to 0"),
    ],
)
def test_arrays_that_cannot_be_are_refused(ids: bytes, logprobs: bytes, message: str):
    (choice, _) = msgspec.msgpack.decode(compact(json.dumps(answered(3)).encode()), type=Completion).choices
    choice.token_ids = ids
    assert choice.logprobs is not None
    choice.logprobs.token_logprobs = logprobs
    with pytest.raises(RolloutError, match=message):
        rollout_of(choice, PROMPT, 3, 3, 10)
