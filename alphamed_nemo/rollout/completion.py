"""What the rollout server answers to a request for samples, and whether it can be trained on.

vLLM writes 76 bytes of JSON for a token: from sixteen nodes more than one process can read. A client that accepts
COMPACT gets the same answer with its numbers as arrays, in msgpack (inside_vllm/compact.py): 8 bytes and the text. Both
are one structure, and a server without the plugin is understood as well.
"""

from __future__ import annotations

from array import array

import msgspec
import numpy as np

from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.types import Rollout

FINISHED = {"stop": False, "length": True}  # vLLM's finish reasons → truncated
LEAST_LOGPROB = -1e4  # nats; vLLM writes -9999 for minus infinity
ROUNDING = 1e-3  # nats by which a log-softmax may exceed 0

IDS, FLOATS = "i", "f"  # of the arrays: int32, and float32, which vLLM's log-probs are


class TokenLogprobs(msgspec.Struct):
    token_logprobs: list[float] | bytes


class GivenLogprob(msgspec.Struct):
    logprob: float


class Choice(msgspec.Struct):
    """One sample. The decoder refuses other types, gaps in the lists, and what is no number."""

    index: int
    text: str
    prompt_token_ids: list[int] | bytes
    token_ids: list[int] | bytes
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: list[dict[str, GivenLogprob] | None] | None = None


class Completion(msgspec.Struct):
    """The answer to one request."""

    choices: list[Choice]


def compact(answer: bytes) -> bytes:
    """vLLM's JSON answer as COMPACT.

    Raises:
        ValueError, OverflowError: it is none, or has numbers that are no int32; then the client has to see it as it is.
    """
    completion = msgspec.json.decode(answer, type=Completion)
    for choice in completion.choices:
        choice.prompt_token_ids = array(IDS, choice.prompt_token_ids).tobytes()
        choice.token_ids = array(IDS, choice.token_ids).tobytes()
        if choice.logprobs is not None:
            choice.logprobs.token_logprobs = array(FLOATS, choice.logprobs.token_logprobs).tobytes()
    return msgspec.msgpack.encode(completion)


def ids_of(values: list[int] | bytes) -> array[int]:
    """Token ids as they came, as an array.

    Raises:
        RolloutError: they are no int32.
    """
    try:
        return array(IDS, values)
    except (ValueError, OverflowError) as error:
        raise RolloutError(f"found token ids that are no 32-bit integers: {error}") from None


def rollout_of(choice: Choice, prompt: list[int], version: int, most: int, vocabulary: int | None) -> Rollout:
    """The rollout that a choice is.

    Args:
        choice: as it came.
        prompt: token ids of its prompt.
        version: of the weights that sampled it.
        most: tokens that were asked for at most.
        vocabulary: number of token ids; None: unknown.

    Raises:
        RolloutError: it was not finished, or its tokens or log-probs cannot be; says what was found and expected.
    """
    if choice.finish_reason not in FINISHED:
        raise RolloutError(f"a sample ended with {choice.finish_reason!r}, expected one of {', '.join(FINISHED)}")
    ids = ids_of(choice.token_ids)
    if choice.logprobs is None:
        raise RolloutError(f"found a sample of {len(ids)} tokens with no log-probs, expected one for each token")
    try:
        logprobs = array(FLOATS, choice.logprobs.token_logprobs)
    except ValueError as error:
        raise RolloutError(f"found log-probs that are no 32-bit numbers: {error}") from None
    if len(ids) != len(logprobs):
        raise RolloutError(
            f"found a sample of {len(ids)} tokens with {len(logprobs)} log-probs, expected one for each token"
        )
    if not 1 <= len(ids) <= most:
        raise RolloutError(f"found a sample of {len(ids)} tokens, expected 1 to {most}")
    least, largest = _range(ids)
    if least < 0 or (vocabulary is not None and largest >= vocabulary):
        expected = f"0 to {vocabulary - 1}" if vocabulary is not None else "at least 0"
        raise RolloutError(
            f"found token id {least if least < 0 else largest}, expected {expected}: the server's model has another "
            "vocabulary"
        )
    least, largest = _range(logprobs)
    if not (LEAST_LOGPROB <= least and largest <= ROUNDING):
        wrong = largest if LEAST_LOGPROB <= least else least
        raise RolloutError(f"found log-prob {wrong:g}, expected {LEAST_LOGPROB:g} to 0 nats")
    return Rollout(
        prompt_ids=prompt,
        response_ids=ids,
        logprobs=logprobs,
        weight_version=version,
        truncated=FINISHED[choice.finish_reason],
        text=choice.text,
    )


def _range(values: array) -> tuple[float, float]:
    """Least and largest; NaN where one is."""
    found = np.frombuffer(values, values.typecode)
    return found.min().item(), found.max().item()


def given_logprobs(choice: Choice, token_ids: list[int]) -> list[float]:
    """log-probs of token_ids[1:], each given the tokens before it.

    Raises:
        RolloutError: there is not one for each of them.
    """
    given = choice.prompt_logprobs
    if given is None or len(given) != len(token_ids):
        count = "none" if given is None else len(given)
        raise RolloutError(f"found {count} log-probs of {len(token_ids)} given tokens, expected one for each")
    found = []
    for entry, token in zip(given[1:], token_ids[1:], strict=True):
        if entry is None or str(token) not in entry:
            raise RolloutError(f"found no log-prob of the given token {token}, expected one for each")
        found.append(entry[str(token)].logprob)
    return found
