"""One rollout server's client: token ids in, token ids and log-probs out.

One definition of a token's log-prob, here and in policy/logprobs.py: log-softmax(logits / temperature) of the sampled
token over the whole vocabulary, before top-p. At temperature 0 (greedy) it is log-softmax(logits).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.completion import Choice, Completion, given_logprobs, ids_of, rollout_of
from alphamed_nemo.rollout.connection import COMPACT, Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.sampling import Request, Sampling
from alphamed_nemo.rollout.types import Rollout
from alphamed_nemo.rollout.vllm_command import MODEL_NAME

GIVEN_UP = "abort"  # the finish reason of what vLLM had not finished when it was told to end


class RolloutClient:
    """Client of one rollout server; thread-safe. Several of them, as one: `RolloutPool`.

    Args:
        connection: to the server.
        cfg: `engines` of the server.
        vocabulary: number of the model's token ids, beyond which none is accepted; None: unknown.
    """

    def __init__(self, connection: Connection, cfg: RolloutConfig, vocabulary: int | None = None) -> None:
        self.cfg = cfg
        self.vocabulary = vocabulary
        self.connection = connection
        self.balance = _Balance(cfg.engines)

    def weight_version(self) -> int:
        """Version of the weights that the server samples from; 0 until the first refit."""
        return weight_version(self.connection)

    def sample(self, request: Request, sampling: Sampling, version: int) -> list[list[Rollout]]:
        """`n` rollouts of each prompt of a request, in order.

        Args:
            version: of the weights that this server samples from.

        Raises:
            RolloutError: the server answered something else than was asked.
            RolloutLost: the server failed after the retries, or another one was started in its place.
        """
        n, prompts = sampling.n, request.prompts
        body = self._body(prompts) | {"n": n, "temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"max_tokens": sampling.max_new_tokens, "logprobs": 0}
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if request.seed is not None:
            body["seed"] = request.seed
        longest = max(map(len, prompts))
        waiting_for = f"{n} samples of {len(prompts)} prompts of up to {longest} tokens"
        with self.balance.engine(n * len(prompts)) as headers:
            choices = self._choices(body, waiting_for, n, headers)
        with self._named():
            rollouts = [
                rollout_of(choice, prompts[index // n], version, sampling.max_new_tokens, self.vocabulary)
                for index, choice in enumerate(choices)
            ]
        return [rollouts[start : start + n] for start in range(0, len(rollouts), n)]

    def prompt_logprobs(self, token_ids: list[int], engine: int = 0) -> list[float]:
        """log-softmax(logits) of token_ids[1:], each given the tokens before it (temperature 1), by one engine.

        For checks of the weights that the server holds: its key-value cache is not read, so stale entries cannot hide.
        """
        body = self._body([token_ids]) | {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        headers = self.balance.header(engine)
        (choice,) = self._choices(body, f"log-probs of {len(token_ids)} given tokens", 1, headers)
        with self._named():
            return given_logprobs(choice, token_ids)

    def _body(self, prompts: list[list[int]]) -> dict:
        return {"model": MODEL_NAME, "prompt": prompts, "return_token_ids": True, "add_special_tokens": False}

    def _choices(self, body: dict, waiting_for: str, n: int, headers: dict[str, str]) -> list[Choice]:
        """The answer's choices, checked to be `n` for each prompt, in the order of the prompts.

        Raises: RolloutError, RolloutLost.
        """
        request = {"json": body, "headers": headers | {"accept": COMPACT}}
        answer = self.connection.call("POST", "/v1/completions", waiting_for, answer=Completion, **request)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        if any(choice.finish_reason == GIVEN_UP for choice in choices):
            raise RolloutLost(
                f"{self.connection.waited(waiting_for)}: it has given them up, as a server that ends does"
            )
        expected = [ids for ids in map(ids_of, body["prompt"]) for _ in range(n)]
        with self._named():
            sampled = [ids_of(choice.prompt_token_ids) for choice in choices]
        if sampled != expected:
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
