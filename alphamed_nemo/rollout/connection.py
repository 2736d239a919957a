"""HTTP to the rollout server, with limits: every call ends in an answer or in an error that says what it waited for."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from urllib3 import BaseHTTPResponse as Answer
from urllib3 import HTTPConnectionPool, Timeout, connection_from_url
from urllib3.exceptions import HTTPError, ReadTimeoutError

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.patience import BUSY, PASSING, Trouble, found, pause_s
from alphamed_nemo.rollout.inside_vllm.instance import INSTANCE

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
POLL_TIMEOUT_S = 2.0
MOST_IDLE = 4096  # connections that stay open: more than requests are ever in flight on one server
COMPACT = "application/msgpack"  # the form of an answer that a client may ask for (completion.py)

T = TypeVar("T")


class RolloutError(RuntimeError):
    """The rollout server did not do what was asked; the message says what was waited for and what came back."""


@dataclass(frozen=True)
class Lost:
    """That a server was lost, and why; what a rank tells the others in the place of a result."""

    reason: str


class RolloutLost(RolloutError):
    """The server is gone, does not answer, or came back without the weights: refit what is started in its place."""


class RolloutFailed(RolloutLost):
    """The server answers that it could not do it: an error of its own, or the engine behind it is gone."""


class Connection:
    """A pool of connections to one server. Thread-safe.

    Args:
        url: http://host:port.
        api_key: bearer token of the server.
        timeout_s: limit of one attempt.
        retries: further attempts after a lost connection or a 5xx answer. A server that is busy (429) is asked again
            until `timeout_s` is over.

    Attributes:
        lost: why nothing is asked of this server until it is back with the right weights; empty: it serves.
        instance: which start of the server answers. Once known, an answer of another start, which has other weights,
            is a loss. None: the next answer tells.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float, retries: int) -> None:
        self.url = url.rstrip("/")
        self.timeout_s, self.retries = timeout_s, retries
        self.lost = ""
        self.instance: str | None = None
        self.trouble = Trouble(f"rollout server {self.url}")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._knowing = threading.Lock()  # of `lost` and `instance`
        self._pool = self._connections(MOST_IDLE)

    def _connections(self, idle: int) -> HTTPConnectionPool:
        """As many as threads ask for, of which so many stay open; urllib3 asks the environment for no proxy."""
        timeout = Timeout(connect=min(CONNECT_TIMEOUT_S, self.timeout_s), read=self.timeout_s)
        secure = {"ssl_context": _certificates()} if self.url.startswith("https://") else {}
        return connection_from_url(self.url, maxsize=idle, timeout=timeout, **secure)

    def _request(
        self, pool: HTTPConnectionPool, method: str, path: str, headers: dict[str, str], **more: Any
    ) -> Answer:
        target = urlsplit(self.url).path + path
        return pool.urlopen(method, target, headers=self.headers | headers, retries=False, redirect=False, **more)

    def call(
        self,
        method: str,
        path: str,
        waiting_for: str,
        *,
        retry: bool = True,
        anew: bool = False,
        answer: type[T] = dict[str, Any],
        json: Any = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> T:
        """One request and its answer, in JSON or COMPACT.

        Args:
            waiting_for: what the caller waits for, as the error message should say it.
            retry: False for calls that must not be repeated blindly (weight updates).
            anew: ask although the server is lost, and know it by the start that answers.
            answer: the type that the answer is decoded to; an empty answer is an empty object.
            json: the body.

        Raises:
            RolloutError: 4xx, or a body of another type, at once.
            RolloutLost: the server is lost already, has not answered within the limit, or another start of it answers,
                at once; anything else after the retries, 5xx as RolloutFailed.
        """
        started, attempt, busy = time.monotonic(), 1, 0
        instance = None if anew else self.instance  # before the next line: one that is back since is another one
        if self.lost and not anew:
            raise RolloutLost(self.lost)
        headers = {"content-type": "application/json"} | (headers or {})
        body = None if json is None else msgspec.json.encode(json)
        target = f"{path}?{urlencode(params)}" if params else path
        while True:
            begun = time.monotonic()
            try:
                if retry:
                    response = self._request(self._pool, method, target, headers, body=body)
                else:
                    # The server closes a connection after a 500; a request that then reuses it is lost without having
                    # been read. One that must not be repeated gets a connection of its own.
                    with self._connections(1) as fresh:
                        response = self._request(fresh, method, target, headers, body=body)
            except ReadTimeoutError:  # the limit is all the patience there is: a second one would double it
                limit = f"{self.timeout_s:g} s (rollout.request_timeout_s)"
                raise RolloutLost(f"{self.waited(waiting_for)}: no answer within {limit}") from None
            except HTTPError as error:
                problem, said, passing, ended = f"{type(error).__name__}: {error}", None, False, RolloutLost
            else:
                self._same_instance(response, instance, anew, waiting_for)
                if _is_success(response):
                    self.trouble.is_over(begun)
                    return self._decoded(response, path, waiting_for, answer)
                problem, said = f"HTTP {response.status}: {_error_text(response)}", response.headers
                passing, ended = response.status in BUSY, RolloutFailed
                if response.status not in PASSING:
                    raise RolloutError(f"{self.waited(waiting_for)}: {problem}")
            pause = pause_s(attempt + busy, said)
            if passing:  # not a try: the server has done nothing of it
                busy += 1
                if time.monotonic() + pause - started > self.timeout_s:
                    raise RolloutLost(f"{self.waited(waiting_for)} for {self.timeout_s:g} s: {problem}")
            elif retry and attempt <= self.retries and not self.lost:
                self.trouble.begins(f"{problem}; retrying, up to {self.retries} times")
                attempt += 1
            else:
                tries = f"{attempt} attempt{'s' if attempt > 1 else ''}"
                raise ended(f"{self.waited(waiting_for)}: {problem} ({tries})")
            time.sleep(pause)

    def _same_instance(self, response: Answer, expected: str | None, anew: bool, waiting_for: str) -> None:
        """Compares who answers with who did when the request was made; one that nobody knew is from now on.

        An error that no route has handled is answered outside of the middleware that tells: it says nothing of this.
        """
        answering = response.headers.get(INSTANCE)
        if answering is None and not _is_success(response):
            return
        if expected is None:
            with self._knowing:  # of two that nobody knew, the first
                self.instance = answering if anew or self.instance is None else self.instance
                expected = self.instance
        if answering != expected:
            raise RolloutLost(f"{self.waited(waiting_for)}: another server was started in its place")

    def _decoded(self, response: Answer, path: str, waiting_for: str, answer: type[T]) -> T:
        form = response.headers.get("content-type", "")
        with _learning:
            decoder = _decoder(form == COMPACT, answer)
        try:
            return decoder.decode(response.data or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RolloutError(
                f"{self.waited(waiting_for)}: {path}: found {found(response.data, form)}, expected vLLM's JSON: {error}"
            ) from None

    def waited(self, waiting_for: str) -> str:
        return f"rollout server {self.url}: waited for {waiting_for}"

    def is_healthy(self) -> bool:
        """One look, of POLL_TIMEOUT_S at most."""
        try:
            return _is_success(self._request(self._pool, "GET", "/health", {}, timeout=POLL_TIMEOUT_S))
        except HTTPError:
            return False

    def lose(self, reason: str, of: str | None = None) -> None:
        """Nothing is asked of this server until `rejoin`.

        Args:
            of: the start of it that failed: one that is back since is not lost for that. None: whichever it is.
        """
        with self._knowing:  # of the requests that fail at once, the first says so
            if of is not None and of != self.instance:
                return
            known, self.lost = self.lost, reason
        if not known:
            log.warning("rollout server %s is lost: %s", self.url, reason)
            self.trouble.known()

    def rejoin(self, anew: bool = False) -> None:
        """It serves again.

        Args:
            anew: it may be another start, known by its next answer.
        """
        with self._knowing:
            lost, self.lost = self.lost, ""
            if anew:
                self.instance = None
        if lost:
            log.info("rollout server %s is back", self.url)

    def close(self) -> None:
        self._pool.close()


_learning = threading.Lock()  # msgspec 0.22 crashes the process where two threads learn the same type at once


@cache
def _decoder(compact: bool, answer: type[T]) -> msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(answer) if compact else msgspec.json.Decoder(answer)


@cache
def _certificates() -> ssl.SSLContext:
    """What https is verified with: one for all connections, since each takes a tenth of a second to make."""
    return ssl.create_default_context()


def connect(cfg: RolloutConfig) -> list[Connection]:
    """A connection to each of the run's servers (`rollout.urls`), in order."""
    return [Connection(url, cfg.api_key, cfg.request_timeout_s, cfg.retries) for url in cfg.urls]


class _WeightInfo(msgspec.Struct):
    weight_version: str | int


def weight_version(connection: Connection, anew: bool = False) -> int:
    """Version of the weights that the server samples from; 0 until the first refit. `anew`: see `Connection.call`."""
    said = connection.call("GET", "/weight_info", "the weight version", answer=_WeightInfo, anew=anew).weight_version
    if said == "default":
        return 0
    if not str(said).isdecimal():
        raise RolloutError(f"rollout server {connection.url}: found weight version {said!r}, expected a number")
    return int(said)


def _is_success(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def _error_text(answer: Answer) -> str:
    """The server's own message where it sent one, else the start of the body; on one line."""
    try:
        error = answer.json().get("error", answer.data.decode())
    except (ValueError, AttributeError, RecursionError):
        return found(answer.data, answer.headers.get("content-type", ""))
    return " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())[:2000]
