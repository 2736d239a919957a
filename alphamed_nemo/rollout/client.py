"""Samples from the policy through the vLLM server: token ids in, token ids and log-probs out.

One definition of a token's log-prob, here and in policy/logprobs.py: log-softmax(logits / temperature) of the sampled
token over the whole vocabulary, before top-p. At temperature 0 (greedy) it is log-softmax(logits).
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.completion import Choice, Completion, given_logprobs, rollout_of
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.types import Rollout
from alphamed_nemo.rollout.vllm_command import MODEL_NAME

__all__ = ["RolloutClient", "RolloutError", "RolloutLost"]

MAX_REQUESTS = 128  # in flight at once, for each engine
SEQUENCES_A_REQUEST = 16


class RolloutClient:
    """Client of one rollout server.

    Args:
        url: http://host:port.
        api_key: its key.
        cfg: `max_num_seqs` and `engines` set how many requests are in flight, `request_timeout_s` and `retries` their
            limits.
        vocabulary: number of the model's token ids, beyond which none is accepted; None: unknown.
    """

    def __init__(self, url: str, api_key: str, cfg: RolloutConfig, vocabulary: int | None = None) -> None:
        self.cfg = cfg
        self.vocabulary = vocabulary
        self.connection = Connection(url, api_key, cfg.request_timeout_s, cfg.retries)
        self.balance = _Balance(cfg.engines)

    def weight_version(self) -> int:
        """Version of the weights that the server samples from; 0 until the first refit."""
        return weight_version(self.connection)

    def generate(
        self,
        prompts: list[list[int]],
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int | Sequence[int] | None = None,
    ) -> list[list[Rollout]]:
        """`n` rollouts of each prompt, in the order of the prompts. See `stream` for the arguments and errors."""
        groups: list[list[Rollout]] = [[] for _ in prompts]
        for index, group in self.stream(prompts, n, temperature, top_p, max_new_tokens, seed):
            groups[index] = group
        return groups

    def stream(
        self,
        prompts: list[list[int]],
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int | Sequence[int] | None = None,
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (index of the prompt, its `n` rollouts) as each group is finished.

        Args:
            prompts: token ids of each prompt; nothing is added to them.
            n: samples of each prompt.
            temperature: 0 is greedy.
            top_p: 1 samples from the whole distribution.
            max_new_tokens: limit of a response, its end-of-sequence token included.
            seed: the same seed, prompts and weights give the same rollouts; a list has one for each prompt, which then
                do not depend on the prompts beside it; None: unseeded (a little faster).

        Raises:
            ValueError: an argument cannot work.
            RolloutError: the server answered something else than was asked, or its weights changed while it sampled.
            RolloutLost: the server failed after the retries, or another one was started in its place.
        """
        _check_arguments(prompts, n, temperature, top_p, max_new_tokens)
        sampling = {"n": n, "temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        version = self.weight_version()
        requests = _split(prompts, n, None if temperature == 0 else seed)
        sequences = n * max(len(request.prompts) for request in requests) if requests else 1
        workers = max(1, min(len(requests), requests_in_flight(sequences, self.cfg)))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="rollout")
        try:
            pending = {pool.submit(self._sample, request, sampling, version): request for request in requests}
            for done in as_completed(pending):
                yield from enumerate(done.result(), start=pending[done].first)
        finally:  # an error or a caller that stops early does not leave requests behind in the queue
            pool.shutdown(wait=True, cancel_futures=True)
        if (now := self.weight_version()) != version:
            error = RolloutLost if now == 0 else RolloutError  # 0: another server, started in its place
            raise error(f"weights changed from version {version} to {now} while {len(prompts)} prompts sampled")

    def prompt_logprobs(self, token_ids: list[int], engine: int = 0) -> list[float]:
        """log-softmax(logits) of token_ids[1:], each given the tokens before it (temperature 1), by one engine.

        For checks of the weights that the server holds: its key-value cache is not read, so stale entries cannot hide.
        """
        body = self._body([token_ids]) | {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        headers = self.balance.header(engine)
        (choice,) = self._choices(body, f"log-probs of {len(token_ids)} given tokens", 1, headers)
        with self._named():
            return given_logprobs(choice, token_ids)

    def warm_up(self) -> None:
        """One short sampled request, so that what the engine does once is done before it is timed."""
        self.generate([[0]], n=2, max_new_tokens=2)

    def close(self) -> None:
        self.connection.close()

    def _sample(self, request: _Request, sampling: dict, version: int) -> list[list[Rollout]]:
        n, prompts = sampling["n"], request.prompts
        body = self._body(prompts) | sampling | {"logprobs": 0}
        if request.seed is not None:
            body["seed"] = request.seed
        longest = max(map(len, prompts))
        waiting_for = f"{n} samples of {len(prompts)} prompts of up to {longest} tokens"
        with self.balance.engine(n * len(prompts)) as headers:
            choices = self._choices(body, waiting_for, n, headers)
        most = sampling["max_tokens"]
        with self._named():
            rollouts = [
                rollout_of(choice, prompts[index // n], version, most, self.vocabulary)
                for index, choice in enumerate(choices)
            ]
        return [rollouts[start : start + n] for start in range(0, len(rollouts), n)]

    def _body(self, prompts: list[list[int]]) -> dict:
        return {"model": MODEL_NAME, "prompt": prompts, "return_token_ids": True, "add_special_tokens": False}

    def _choices(self, body: dict, waiting_for: str, n: int, headers: dict[str, str]) -> list[Choice]:
        """The answer's choices, checked to be `n` for each prompt, in the order of the prompts."""
        request = {"json": body, "headers": headers}
        answer = self.connection.call("POST", "/v1/completions", waiting_for, answer=Completion, **request)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        expected = [prompt for prompt in body["prompt"] for _ in range(n)]
        if [choice.prompt_token_ids for choice in choices] != expected:
            raise RolloutError(
                f"{self.connection.waited(waiting_for)}: found {len(choices)} samples, or of other prompts, expected "
                f"{len(expected)}: {n} of each prompt"
            )
        return choices

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors name the server."""
        try:
            yield
        except RolloutError as error:
            raise RolloutError(f"rollout server {self.connection.url}: {error}") from None


def requests_in_flight(sequences: int, cfg: RolloutConfig) -> int:
    """How many requests of so many sequences are sent at once: enough that each engine always has a waiting sequence,
    few enough for its queue."""
    return min(MAX_REQUESTS, ceil(1.5 * cfg.max_num_seqs / sequences)) * cfg.engines


class _Balance:
    """Shares requests among the server's engines: each goes to the one with the fewest sequences under way.

    vLLM's own balance knows the engines' load as it was up to a tenth of a second ago, when most requests of a batch
    had not come yet, and it divides a group's samples, whose prompt each engine then computes.
    """

    def __init__(self, engines: int) -> None:
        self.under_way = [0] * engines
        self.lock = threading.Lock()

    @contextmanager
    def engine(self, sequences: int) -> Iterator[dict[str, str]]:
        """The header for a request of so many sequences, which then are under way."""
        with self.lock:
            chosen = self.under_way.index(min(self.under_way))
            self.under_way[chosen] += sequences
        try:
            yield self.header(chosen)
        finally:
            with self.lock:
                self.under_way[chosen] -= sequences

    def header(self, engine: int) -> dict[str, str]:
        """What sends a request to that engine."""
        return {"X-data-parallel-rank": str(engine)} if len(self.under_way) > 1 else {}


@dataclass
class _Request:
    """Prompts that travel together; `first` is the index of the first of them in the caller's list."""

    first: int
    prompts: list[list[int]]
    seed: int | None


def seeds_of(seed: int, names: Iterable[str]) -> list[int]:
    """A seed for each name, from a range so wide that the spans of `seed + sample` of two names do not meet."""
    return [int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 2 for name in names]


def _split(prompts: list[list[int]], n: int, seed: int | Sequence[int] | None) -> list[_Request]:
    """Requests of SEQUENCES_A_REQUEST sequences (fewer, larger requests cost less), or of one prompt where seeded.

    vLLM gives every prompt of a request the same seed, and sample i of each the seed + i: prompts would share their
    noise. So a seeded prompt travels alone, with a seed drawn from a range so wide that these spans do not meet.
    """
    if isinstance(seed, int):
        stream = random.Random(seed)
        seed = [stream.getrandbits(62) for _ in prompts]
    if seed is not None:
        return [_Request(i, [prompt], own) for i, (prompt, own) in enumerate(zip(prompts, seed, strict=True))]
    size = max(1, SEQUENCES_A_REQUEST // n)
    return [_Request(first, prompts[first : first + size], None) for first in range(0, len(prompts), size)]


def _check_arguments(prompts: list[list[int]], n: int, temperature: float, top_p: float, max_new_tokens: int) -> None:
    if any(not prompt for prompt in prompts):
        raise ValueError("prompts: found an empty one, expected at least one token id in each")
    if n < 1 or max_new_tokens < 1:
        raise ValueError(f"n and max_new_tokens: found {n} and {max_new_tokens}, expected at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} and top_p {top_p}: expected temperature >= 0 and 0 < top_p <= 1")
