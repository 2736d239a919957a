"""The reward server: `POST /score` applies the rule, and a user's own functions, to a batch of responses.

    python -m alphamed_nemo.rewards.server --host 127.0.0.1 --port 8100 --protocol boxed

Request:  {"items": [{"response": "... \\boxed{C}", "answer": "C", "options": ["...", ...]}, ...]}
          (or "letters": "ABCD" where the option texts are not known; "prompt" and "question" where --function names
          functions of the user's own, which run in this process: rewards/functions.py)
Response: {"protocol": "boxed", "scores": [{"reward": 1.0, "answer": "C", "reason": "correct"}, ...]}

A request is scored as a whole or refused as a whole, with {"detail": "why"}: 400 or 422 for what cannot be scored, 401
without the token, 408 for a body that came too slowly, 413 for too much, 429 with Retry-After when too much is under
way. There is no way for a refused item to look like a reward of 0. /health answers whatever the load.
"""

from __future__ import annotations

import argparse
import asyncio
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
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from alphamed_nemo.access import RequireKey
from alphamed_nemo.answers.protocols import extractor
from alphamed_nemo.config import RewardConfig
from alphamed_nemo.config.hosts import is_loopback
from alphamed_nemo.config.scrub import log_to_stderr
from alphamed_nemo.open_files import raise_file_limit
from alphamed_nemo.rewards.connections import BACKLOG, PatientProtocol
from alphamed_nemo.rewards.counters import ServerMetrics
from alphamed_nemo.rewards.functions import FunctionFailed, RewardFunctions, check_functions
from alphamed_nemo.rewards.request import Refused, parse_items
from alphamed_nemo.rewards.rule import score_all

log = logging.getLogger(__name__)

GONE = 499  # the client left before its body was complete; nobody reads this answer
RETRY_AFTER_S = 1  # what a refused client is asked to wait
API_KEY_VARIABLE = "ALPHAMED_REWARD_API_KEY"  # never on the command line, where every user of the machine can read it


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take. Connections are not limited.

    Attributes:
        body_bytes: one request body.
        in_flight_bytes: all bodies being read or scored; beyond it requests are refused with 429.
        requests: requests whose body is complete, being scored or waiting for it; beyond it they are refused with 429.
        body_seconds: time for a body to arrive.
        threads: that parse and score. The interpreter lets one compute at a time; with a second a small request need
            not wait for a large one, and with more /health would.
    """

    body_bytes: int = 64 * 2**20
    in_flight_bytes: int = 256 * 2**20
    requests: int = 256
    body_seconds: float = 20.0
    threads: int = 2


def create_app(cfg: RewardConfig, limits: Limits | None = None) -> FastAPI:
    """The application, with its own metrics.

    Raises:
        ValueError: cfg.protocol is unknown, or a function of cfg.functions cannot be loaded.
    """
    extractor(cfg.protocol)
    limits = limits or Limits()
    metrics = ServerMetrics(weighted=bool(cfg.functions))
    app = FastAPI(title="AlphaMed-NeMo rewards", openapi_url=None)
    if cfg.api_key:
        app.add_middleware(RequireKey, key=cfg.api_key)
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
        self.threads = CapacityLimiter(limits.threads)
        self.in_flight = 0  # bytes
        self.under_way = 0  # requests

    async def answer(self, request: Request) -> Response:
        started = time.perf_counter()
        held = [0]
        try:
            content = await self._scored(await self._read(request, held))
        except Refused as refusal:
            self.metrics.refused(refusal.status)
            headers = {"Retry-After": str(RETRY_AFTER_S)} if refusal.status == 429 else None
            return JSONResponse({"detail": refusal.reason}, refusal.status, headers)
        except ClientDisconnect:
            self.metrics.refused(GONE)
            return Response(status_code=GONE)
        finally:
            self.in_flight -= held[0]
        self.metrics.answered(time.perf_counter() - started)
        return Response(content, media_type="application/json")

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
                        raise Refused(429, f"more than {self.limits.in_flight_bytes} bytes in flight; try again later")
                    chunks.append(chunk)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.limits.body_seconds:g} s") from None
        return b"".join(chunks)

    async def _scored(self, body: bytes) -> bytes:
        if self.under_way == self.limits.requests:
            raise Refused(429, f"more than {self.limits.requests} requests under way; try again later")
        self.under_way += 1
        try:
            return await to_thread.run_sync(self._score, body, limiter=self.threads)
        finally:
            self.under_way -= 1

    def _score(self, body: bytes) -> bytes:
        items, longest = parse_items(body, self.cfg), self.cfg.max_response_chars
        try:
            if self.functions:
                scores = self.functions.score_all(items)
            else:
                scores = score_all(items, self.cfg.protocol, longest)
        except FunctionFailed as error:
            raise Refused(422, str(error)) from error
        if too_long := sum(len(item.response) > longest for item in items):
            self.metrics.too_long(too_long)
            log.warning("%d responses of more than %d characters (reward.max_response_chars)", too_long, longest)
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
        cfg.api_key = os.environ.get(API_KEY_VARIABLE, "") or cfg.api_key
        if not cfg.api_key and not is_loopback(cfg.host):
            raise ValueError(
                f"host {cfg.host!r}: other machines reach it, so a key is needed; set {API_KEY_VARIABLE} in the "
                "environment, or listen on 127.0.0.1"
            )
    except (ValueError, TypeError, OSError, yaml.YAMLError) as error:
        parser.error(str(error))
    body = arguments.max_body_bytes
    return cfg, Limits(body_bytes=body, in_flight_bytes=4 * body)


def _function(text: str) -> tuple[str, float]:
    place, _, weight = text.rpartition("=")
    return place, float(weight)


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, finishes what is in flight and returns 0; 2 where a function cannot be loaded, or
    file descriptors are too few."""
    cfg, limits = parse_arguments(argv)
    log_to_stderr("%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        raise_file_limit()
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
            backlog=BACKLOG,
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
