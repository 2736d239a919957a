"""Asking the reward server. A failure is an error and a count, never a reward."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.patience import PASSING, Trouble, found, pause_s
from alphamed_nemo.rewards.functions import RULE, needs_question, part_of
from alphamed_nemo.rewards.score import (
    CORRECT,
    LARGEST_REWARD,
    NO_ANSWER,
    WRONG,
    RewardError,
    RewardItem,
    Score,
    check_item,
    letters_of,
)

log = logging.getLogger(__name__)

BATCH_CHARS = 8 * 2**20  # characters of responses and options a request; below the server's body limit as UTF-8
MAX_ANSWER_BYTES = 64 * 2**20
ROUNDING = 1e-9  # of a weighted sum


class _WireAnswer(msgspec.Struct):
    protocol: str
    scores: list[Score]


class _Health(msgspec.Struct):
    protocol: str


_DECODER = msgspec.json.Decoder(_WireAnswer)
_HEALTH_DECODER = msgspec.json.Decoder(_Health)


class _TryAgain(Exception):
    """An attempt failed for a reason that may pass; `headers` of the answer, where there was one."""

    def __init__(self, reason: str, headers: httpx.Headers | None = None) -> None:
        super().__init__(reason)
        self.headers = headers


class RewardClient:
    """Scores responses through the server at `url`.

    Attributes:
        failures: requests given up on; each raised RewardError.
        retried: attempts that failed and were repeated.
    """

    def __init__(self, url: str, cfg: RewardConfig) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"reward.url={url!r}: expected http://host:port of a reward server")
        self.url = url.rstrip("/")
        self.cfg = cfg
        self.failures = 0
        self.retried = 0
        self._trouble = Trouble(f"reward server {self.url}")
        self._asked = needs_question(cfg)
        self._parts = {RULE, *map(part_of, cfg.functions)} if cfg.functions else set()
        headers = {"Content-Type": "application/json"}
        if cfg.api_key:
            headers["Authorization"] = f"Bearer {cfg.api_key}"
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(cfg.request_timeout_s), trust_env=False)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, items: list[RewardItem]) -> list[Score]:
        """Scores of `items`, in their order.

        Failures that may pass (no connection, one that is lost, no answer in time, a server that is busy or restarted)
        are retried, with growing pauses, until (1 + reward.retries) × reward.request_timeout_s are over.

        Raises:
            ValueError: an item cannot be graded (its key is none of its options).
            RewardError: the server refused, answered something else than scores by this run's protocol, functions and
                weights, or failed for that long. No partial result is returned.
        """
        for index, item in enumerate(items):
            try:
                check_item(item)
            except ValueError as error:
                raise ValueError(f"reward item {index}: {error}") from None
        scores: list[Score] = []
        for batch in self._batches(items):
            scores += self._ask(batch)
        return scores

    def _batches(self, items: list[RewardItem]) -> Iterator[list[RewardItem]]:
        batch: list[RewardItem] = []
        chars = 0
        for item in items:
            size = len(item.response) + sum(map(len, item.options))
            if self._asked and item.question is not None:
                size += len(item.prompt) + len(str(item.question))
            if batch and (len(batch) == self.cfg.max_batch or chars + size > BATCH_CHARS):
                yield batch
                batch, chars = [], 0
            batch.append(item)
            chars += size
        if batch:
            yield batch

    def check_server(self) -> None:
        """Asks the server for its health, with the patience of `score`.

        Raises:
            RewardError: it does not answer, or scores by another protocol.
        """
        content = self._patiently(lambda: self._attempt("GET", "/health"), "/health: no answer")
        try:
            protocol = _HEALTH_DECODER.decode(content).protocol
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            expected = f'{{"status": "ok", "protocol": "{self.cfg.protocol}"}}'
            raise self._given_up(f"/health: found {found(content)}, expected {expected}: {error}") from error
        self._check_protocol(protocol, "/health")

    def _ask(self, batch: list[RewardItem]) -> list[Score]:
        wire = _asked_wire if self._asked else _wire
        body = msgspec.json.encode({"items": [wire(item) for item in batch]})
        content = self._patiently(
            lambda: self._attempt("POST", "/score", body), f"/score: no scores for {len(batch)} responses"
        )
        return self._checked(content, batch)

    def _patiently(self, attempt: Callable[[], bytes], nothing: str) -> bytes:
        """What an attempt returns, which is repeated until the patience ends; `nothing` begins the error then."""
        started, attempts = time.monotonic(), 0
        patience_s = (1 + self.cfg.retries) * self.cfg.request_timeout_s
        while True:
            attempts += 1
            begun = time.monotonic()
            try:
                content = attempt()
                self._trouble.is_over(begun)
                return content
            except _TryAgain as error:
                pause = pause_s(attempts, error.headers)
                waited_s = time.monotonic() - started
                if waited_s + pause > patience_s:
                    raise self._given_up(
                        f"{nothing} after {attempts} attempts in {waited_s:.0f} s; the last: {error}; see the reward "
                        "server's log"
                    ) from error
                self.retried += 1
                self._trouble.begins(f"{error}; retrying for {patience_s:.0f} s")
                time.sleep(pause)

    def _attempt(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the server's answer.

        Raises:
            _TryAgain: the failure may pass.
            RewardError: it may not.
        """
        deadline = time.monotonic() + self.cfg.request_timeout_s
        try:
            with self._http.stream(method, f"{self.url}{path}", content=body) as response:
                content = _read(response, deadline)
        except httpx.HTTPError as error:
            raise _TryAgain(f"{type(error).__name__} {error}".strip()) from error
        said = found(content, response.headers.get("content-type", ""))
        if response.status_code in PASSING:
            raise _TryAgain(f"status {response.status_code} {said}", response.headers)
        if response.status_code != 200:
            raise self._given_up(f"{path}: refused the request: {response.status_code} {said}")
        return content

    def _checked(self, content: bytes, batch: list[RewardItem]) -> list[Score]:
        """Raises: RewardError: it holds anything else than a score by this run's rule for each item."""
        try:
            answer = _DECODER.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            expected = f'{{"protocol": "{self.cfg.protocol}", "scores": [...]}}, {len(batch)} of them'
            raise self._given_up(f"/score: found {found(content)}, expected {expected}: {error}") from error
        self._check_protocol(answer.protocol, "/score")
        if len(answer.scores) != len(batch):
            raise self._given_up(
                f"/score: found {len(answer.scores)} scores, expected {len(batch)}, one for each response"
            )
        for index, (score, item) in enumerate(zip(answer.scores, batch, strict=True)):
            self._check_parts(score)
            if problem := self._problem(score, item):
                raise self._given_up(f"/score: scores[{index}]: {problem}")
        return answer.scores

    def _check_protocol(self, protocol: str, path: str) -> None:
        if protocol != self.cfg.protocol:
            raise self._given_up(
                f"{path}: found the protocol {protocol[:80]!r}, expected {self.cfg.protocol!r} (reward.protocol); "
                "start the server with the same"
            )

    def _check_parts(self, score: Score) -> None:
        """Raises: RewardError: the server has other functions than this run."""
        given = {name.partition("/")[0] for name in score.parts}
        if given != self._parts:
            raise self._given_up(
                f"/score: the reward server has the functions {_listed(given)}, this run {_listed(self._parts)} "
                "(reward.functions); start it with the same"
            )

    def _problem(self, score: Score, item: RewardItem) -> str:
        """What is wrong with a score, or nothing."""
        reason = NO_ANSWER if score.answer is None else CORRECT if score.answer == item.answer else WRONG
        if score.answer is not None and score.answer not in tuple(letters_of(item)):
            return f"found answer {score.answer[:20]!r}, expected one of {', '.join(letters_of(item))} or null"
        if score.reason != reason:
            stated = f"answer {score.answer!r} and key {item.answer!r}"
            return f"found reason {score.reason[:20]!r} for {stated}, expected {reason!r}"
        by_rule = float(reason == CORRECT)
        if not self._parts:
            expected = by_rule
        elif score.parts[RULE] != by_rule:
            return f"found {RULE} {score.parts[RULE]}, expected {by_rule}"
        else:
            weighted = self.cfg.weighted.items()
            expected = sum(weight * score.parts.get(part_of(place), math.nan) for place, weight in weighted)
        if not math.isclose(score.reward, expected, rel_tol=ROUNDING, abs_tol=ROUNDING):
            return f"found reward {score.reward}, expected {expected:g} by the rule and this run's reward.weights"
        if max(map(abs, (score.reward, *score.parts.values()))) > LARGEST_REWARD:
            return f"found {score.reward} from {score.parts}, expected numbers within ±{LARGEST_REWARD:g}"
        return ""

    def _given_up(self, problem: str) -> RewardError:
        self.failures += 1
        return RewardError(f"{self.url}{problem}")


def _listed(parts: set[str]) -> str:
    return ", ".join(sorted(parts))[:200] or "none but the rule"


def _wire(item: RewardItem) -> dict:
    response = _text(item.response)
    if item.options:
        return {"response": response, "answer": item.answer, "options": item.options}
    return {"response": response, "answer": item.answer, "letters": item.letters}


def _asked_wire(item: RewardItem) -> dict:
    """With prompt and question, for functions of the user's own."""
    asked = item.question
    assert asked is not None, "reward.functions get the question of each response"
    question = {"id": asked.id, "dataset": asked.dataset, "stem": asked.stem, "context": asked.context}
    question |= {"level": asked.level, "metadata": asked.metadata}
    return _wire(item) | {"prompt": _text(item.prompt), "question": _texts(question)}


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot travel as UTF-8


def _texts(value: Any) -> Any:
    """Metadata and all in it, with texts that can travel."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(str(key)): _texts(each) for key, each in value.items()}
    return [_texts(each) for each in value] if isinstance(value, list | tuple) else value


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The body; httpx limits each read, this limits all of them together."""
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise _TryAgain(f"answer above {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise _TryAgain("the answer did not arrive within reward.request_timeout_s")
    return b"".join(chunks)
