"""Asking the reward server. A failure is an error and a count, never a reward."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.rewards.functions import RULE, needs_question, part_of
from alphamed_nemo.rewards.score import RewardError, RewardItem, Score, check_item

log = logging.getLogger(__name__)

BATCH_CHARS = 8 * 2**20  # characters of responses and options a request; below the server's body limit as UTF-8
BACK_OFF_S = 0.2  # first pause; doubles up to MAX_PAUSE_S
MAX_PAUSE_S = 5.0
MAX_ANSWER_BYTES = 64 * 2**20
PASSING = frozenset((408, 429, 500, 502, 503, 504))  # statuses worth another try


class _WireAnswer(msgspec.Struct):
    scores: list[Score]


_DECODER = msgspec.json.Decoder(_WireAnswer)


class _TryAgain(Exception):
    """An attempt failed for a reason that may pass."""


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

        Raises:
            ValueError: an item cannot be graded (its key is none of its options).
            RewardError: the server refused, or gave no usable answer in `1 + reward.retries` attempts of at most
                `reward.request_timeout_s` each. No partial result is returned.
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

    def _ask(self, batch: list[RewardItem]) -> list[Score]:
        wire = _asked_wire if self._asked else _wire
        body = msgspec.json.encode({"items": [wire(item) for item in batch]})
        attempts = 1 + self.cfg.retries
        pause = BACK_OFF_S
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt(body, len(batch))
            except _TryAgain as error:
                if attempt == attempts:
                    self.failures += 1
                    raise RewardError(
                        f"{self.url}/score: no scores for {len(batch)} responses after {attempts} attempts; "
                        f"the last: {error}; see the reward server's log"
                    ) from error
                self.retried += 1
                log.warning("%s/score, attempt %d of %d: %s", self.url, attempt, attempts, error)
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, MAX_PAUSE_S)
        raise AssertionError("unreachable")

    def _attempt(self, body: bytes, count: int) -> list[Score]:
        deadline = time.monotonic() + self.cfg.request_timeout_s
        try:
            with self._http.stream("POST", f"{self.url}/score", content=body) as response:
                content = _read(response, deadline)
        except httpx.HTTPError as error:
            raise _TryAgain(f"{type(error).__name__} {error}".strip()) from error
        if response.status_code in PASSING:
            raise _TryAgain(f"status {response.status_code} {content[:200]!r}")
        if response.status_code != 200:
            self.failures += 1
            raise RewardError(f"{self.url}/score refused the request: {response.status_code} {content[:500]!r}")
        scores = _scores(content, count)
        self._check_parts(scores)
        return scores

    def _check_parts(self, scores: list[Score]) -> None:
        """Raises: RewardError: the server at `reward.url` has other functions than this run."""
        for score in scores:
            given = {name.partition("/")[0] for name in score.parts}
            if given != self._parts:
                self.failures += 1
                raise RewardError(
                    f"{self.url}: the reward server has the functions {_listed(given)}, this run "
                    f"{_listed(self._parts)} (reward.functions); start it with the same"
                )


def _listed(parts: set[str]) -> str:
    return ", ".join(sorted(parts)) or "none but the rule"


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


def _scores(content: bytes, count: int) -> list[Score]:
    try:
        scores = _DECODER.decode(content).scores
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _TryAgain(f"unreadable answer: {error}") from error
    if len(scores) != count:
        raise _TryAgain(f"{len(scores)} scores for {count} responses")
    return scores
