"""The reward server: `POST /score` applies the rule, and a user's own functions, to a batch of responses.

    python -m alphamed_nemo.rewards.server --host 127.0.0.1 --port 8100 --protocol boxed

Request:  {"items": [{"response": "... \\boxed{C}", "answer": "C", "options": ["...", ...]}, ...]}
          (or "letters": "ABCD" where the option texts are not known; "prompt" and "question" where --function names
          functions of the user's own, which run in this process: rewards/functions.py)
Response: {"protocol": "boxed", "scores": [{"reward": 1.0, "answer": "C", "reason": "correct"}, ...]}

A request is scored as a whole or refused as a whole, with {"detail": "why"}: 400 or 422 for what cannot be scored, 401
without the token, 408 for a body that came too slowly, 413 for too much, 503 when too much is in flight. There is no
way for a refused item to look like a reward of 0.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from alphamed_nemo.answers.protocols import extractor
from alphamed_nemo.config import RewardConfig
from alphamed_nemo.rewards.connections import PatientProtocol
from alphamed_nemo.rewards.counters import ServerMetrics
from alphamed_nemo.rewards.functions import FunctionFailed, RewardFunctions, check_functions
from alphamed_nemo.rewards.request import Refused, parse_items
from alphamed_nemo.rewards.rule import score_all

log = logging.getLogger(__name__)

GONE = 499  # the client left before its body was complete; nobody reads this answer
API_KEY_VARIABLE = "ALPHAMED_REWARD_API_KEY"  # never on the command line, where every user of the machine can read it


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        body_bytes: one request body.
        in_flight_bytes: all bodies being read or scored; beyond it requests are refused with 503.
        body_seconds: time for a body to arrive.
        inline_bytes: bodies above this are parsed and scored in a thread, so that /health keeps answering.
    """

    body_bytes: int = 64 * 2**20
    in_flight_bytes: int = 256 * 2**20
    body_seconds: float = 20.0
    inline_bytes: int = 256 * 2**10


def create_app(cfg: RewardConfig, limits: Limits | None = None) -> FastAPI:
    """The application, with its own metrics.

    Raises:
        ValueError: cfg.protocol is unknown, or a function of cfg.functions cannot be loaded.
    """
    extractor(cfg.protocol)
    limits = limits or Limits()
    metrics = ServerMetrics(weighted=bool(cfg.functions))
    app = FastAPI(title="AlphaMed-NeMo rewards", openapi_url=None)
    scorer = Scorer(cfg, limits, metrics)

    @app.post("/score")
    async def score(request: Request) -> Response:
        return await scorer.answer(request)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "protocol": cfg.protocol})

    @app.get("/metrics")
    async def show_metrics() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


class Scorer:
    """Reads, checks, scores and answers the requests of one server."""

    def __init__(self, cfg: RewardConfig, limits: Limits, metrics: ServerMetrics) -> None:
        self.cfg = cfg
        self.limits = limits
        self.metrics = metrics
        self.functions = RewardFunctions(cfg) if cfg.functions else None
        self.in_flight = 0  # bytes

    async def answer(self, request: Request) -> Response:
        started = time.perf_counter()
        held = [0]
        try:
            self._authorize(request)
            body = await self._read(request, held)
            if self.functions or len(body) > self.limits.inline_bytes:  # a user's function may take any time
                content = await run_in_threadpool(self._score, body)
            else:
                content = self._score(body)
        except Refused as refusal:
            self.metrics.refused(refusal.status)
            return JSONResponse({"detail": refusal.reason}, refusal.status)
        except ClientDisconnect:
            self.metrics.refused(GONE)
            return Response(status_code=GONE)
        finally:
            self.in_flight -= held[0]
        self.metrics.answered(time.perf_counter() - started)
        return Response(content, media_type="application/json")

    def _authorize(self, request: Request) -> None:
        if not self.cfg.api_key:
            return
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.cfg.api_key}".encode()):
            raise Refused(401, "expected the header 'Authorization: Bearer <reward.api_key>'")

    async def _read(self, request: Request, held: list[int]) -> bytes:
        """The body, refused as soon as it is known to be too large; `held[0]` counts what it takes of the budget."""
        limit = self.limits.body_bytes
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise Refused(413, f"body of {announced} bytes, at most {limit}; send smaller batches")
        chunks = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    held[0] += len(chunk)
                    self.in_flight += len(chunk)
                    if held[0] > limit:
                        raise Refused(413, f"body above {limit} bytes; send smaller batches")
                    if self.in_flight > self.limits.in_flight_bytes:
                        raise Refused(503, "too many bytes in flight; try again later")
                    chunks.append(chunk)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.limits.body_seconds:g} s") from None
        return b"".join(chunks)

    def _score(self, body: bytes) -> bytes:
        items = parse_items(body, self.cfg)
        try:
            scores = self.functions.score_all(items) if self.functions else score_all(items, self.cfg.protocol)
        except FunctionFailed as error:
            raise Refused(422, str(error)) from error
        self.metrics.scored(scores)
        return msgspec.json.encode({"protocol": self.cfg.protocol, "scores": scores})


def read_config(path: Path) -> RewardConfig:
    """The `reward` section of a run's config.yaml.

    Raises:
        ValueError: the file is no mapping, or the section has a key that RewardConfig lacks.
    """
    content = yaml.safe_load(path.read_text()) or {}
    section = content.get("reward", {}) if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"{path}: expected a mapping with a section 'reward', found {type(content).__name__}")
    known = {field.name for field in fields(RewardConfig)}
    unknown = sorted(set(section) - known)
    if unknown:
        raise ValueError(f"{path}: unknown key reward.{unknown[0]}; known are {', '.join(sorted(known))}")
    return RewardConfig(**section)


def parse_arguments(argv: list[str] | None = None) -> tuple[RewardConfig, Limits]:
    """Settings from the command line over those of --config over the defaults. Exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m alphamed_nemo.rewards.server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--config", type=Path, help="config.yaml of a run; its section reward is used")
    parser.add_argument("--host", help="address to bind; keep it to loopback or the job's private interface")
    parser.add_argument("--port", type=int)
    parser.add_argument("--protocol")
    parser.add_argument(
        "--function",
        action="append",
        type=_function,
        metavar="NAME=WEIGHT",
        help="correct, or file.py:function or package.module:function, with its weight; once for each",
    )
    parser.add_argument("--max-batch", type=int, help="items a request")
    parser.add_argument("--max-response-chars", type=int)
    parser.add_argument("--max-body-bytes", type=int, default=Limits.body_bytes)
    arguments = parser.parse_args(argv)
    try:
        cfg = read_config(arguments.config) if arguments.config else RewardConfig()
        for name in ("host", "port", "protocol", "max_batch", "max_response_chars"):
            if getattr(arguments, name) is not None:
                setattr(cfg, name, getattr(arguments, name))
        if arguments.function:
            cfg.functions, cfg.weights = map(list, zip(*arguments.function, strict=True))
        extractor(cfg.protocol)
        check_functions(cfg)
        if not 0 < cfg.port < 2**16:
            raise ValueError(f"port {cfg.port}: expected 1 to 65535; give --port")
    except (ValueError, TypeError, OSError, yaml.YAMLError) as error:
        parser.error(str(error))
    cfg.api_key = os.environ.get(API_KEY_VARIABLE, "") or cfg.api_key
    body = arguments.max_body_bytes
    return cfg, Limits(body_bytes=body, in_flight_bytes=4 * body)


def _function(text: str) -> tuple[str, float]:
    place, _, weight = text.rpartition("=")
    return place, float(weight)


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, finishes what is in flight and returns 0; 2 where a function cannot be loaded."""
    cfg, limits = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        app = create_app(cfg, limits)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=cfg.host,
            port=cfg.port,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            limit_concurrency=256,
            backlog=512,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
    )
    # uvicorn raises the signal again once it has shut down; a stop that was asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    raise SystemExit(main())
