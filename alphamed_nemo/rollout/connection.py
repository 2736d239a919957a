"""HTTP to the rollout server, with limits: every call ends in an answer or in an error that says what it waited for."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import msgspec

from alphamed_nemo.patience import BUSY, PASSING, found, pause_s

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
POLL_TIMEOUT_S = 2.0
POLL_EVERY_S = 0.5

T = TypeVar("T")


class RolloutError(RuntimeError):
    """The rollout server did not do what was asked; the message says what was waited for and what came back."""


@dataclass(frozen=True)
class Lost:
    """That a server was lost, and why; what a rank tells the others in the place of a result."""

    reason: str


class RolloutLost(RolloutError):
    """The server is gone, does not answer, or came back without the weights: refit what is started in its place."""


class Connection:
    """A pool of connections to one server. Thread-safe.

    Args:
        url: http://host:port.
        api_key: bearer token of the server.
        timeout_s: limit of one attempt.
        retries: further attempts after a lost connection or a 5xx answer. A server that is busy (429) is asked again
            until `timeout_s` is over.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float, retries: int) -> None:
        self.url = url.rstrip("/")
        self.timeout_s, self.retries = timeout_s, retries
        settings = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "timeout": httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            "trust_env": False,  # a proxy of the environment has no business between two processes of a job
        }
        # No limit to idle connections: httpcore 1.0 closes surplus ones, among them one that another thread was given a
        # moment ago and is about to use; its request then waits for the whole time limit.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._pool = httpx.Client(limits=limits, **settings)
        # The server closes a connection after a 500; a request that then reuses it is lost without having been read.
        # One that must not be repeated gets a connection of its own.
        self._fresh = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), **settings)

    def call(
        self,
        method: str,
        path: str,
        waiting_for: str,
        *,
        retry: bool = True,
        answer: type[T] = dict[str, Any],
        **request: Any,
    ) -> T:
        """One request and its JSON answer.

        Args:
            waiting_for: what the caller waits for, as the error message should say it.
            retry: False for calls that must not be repeated blindly (weight updates).
            answer: the type that the answer is decoded to; an empty answer is an empty object.

        Raises:
            RolloutError: 4xx, or a body of another type, at once.
            RolloutLost: no answer within the limit, at once; anything else after the retries.
        """
        started, attempt, busy = time.monotonic(), 1, 0
        while True:
            try:
                response = (self._pool if retry else self._fresh).request(method, path, **request)
            except httpx.ReadTimeout:  # the limit is all the patience there is: a second one would double it
                raise RolloutLost(f"{self.waited(waiting_for)}: no answer within {self.timeout_s:g} s") from None
            except httpx.HTTPError as error:
                problem, headers, passing = f"{type(error).__name__}: {error}", None, False
            else:
                if response.is_success:
                    return self._decoded(response, waiting_for, answer)
                problem, headers = f"HTTP {response.status_code}: {_error_text(response)}", response.headers
                passing = response.status_code in BUSY
                if response.status_code not in PASSING:
                    raise RolloutError(f"{self.waited(waiting_for)}: {problem}")
            pause = pause_s(attempt + busy, headers)
            if passing:  # not a try: the server has done nothing of it
                busy += 1
                if time.monotonic() + pause - started > self.timeout_s:
                    raise RolloutLost(f"{self.waited(waiting_for)} for {self.timeout_s:g} s: {problem}")
            elif retry and attempt <= self.retries:
                log.warning("rollout server %s: %s; retry %d of %d", self.url, problem, attempt, self.retries)
                attempt += 1
            else:
                tries = f"{attempt} attempt{'s' if attempt > 1 else ''}"
                raise RolloutLost(f"{self.waited(waiting_for)}: {problem} ({tries})")
            time.sleep(pause)

    def _decoded(self, response: httpx.Response, waiting_for: str, answer: type[T]) -> T:
        try:
            return msgspec.json.decode(response.content or b"{}", type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = found(response.content, response.headers.get("content-type", ""))
            raise RolloutError(
                f"{self.waited(waiting_for)}: {response.request.url.path}: found {said}, expected vLLM's JSON: {error}"
            ) from None

    def waited(self, waiting_for: str) -> str:
        return f"rollout server {self.url}: waited for {waiting_for}"

    def wait_ready(self, within_s: float) -> None:
        """Polls until the server is healthy, one that is started meanwhile included.

        Raises:
            RolloutLost: it is not within the time.
        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                if self._pool.get("/health", timeout=POLL_TIMEOUT_S).is_success:
                    return
                problem = "its health is not good"
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise RolloutLost(f"{self.waited('the server')} for {within_s:g} s: {problem}")
            time.sleep(POLL_EVERY_S)

    def close(self) -> None:
        self._pool.close()
        self._fresh.close()


class _WeightInfo(msgspec.Struct):
    weight_version: str | int


def weight_version(connection: Connection) -> int:
    """Version of the weights that the server samples from; 0 until the first refit."""
    said = connection.call("GET", "/weight_info", "the weight version", answer=_WeightInfo).weight_version
    if said == "default":
        return 0
    if not str(said).isdecimal():
        raise RolloutError(f"rollout server {connection.url}: found weight version {said!r}, expected a number")
    return int(said)


def _error_text(answer: httpx.Response) -> str:
    """The server's own message where it sent one, else the start of the body; on one line."""
    try:
        error = answer.json().get("error", answer.text)
    except (ValueError, AttributeError, RecursionError):
        return found(answer.content, answer.headers.get("content-type", ""))
    return " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())[:2000]
