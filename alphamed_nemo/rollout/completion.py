"""What the rollout server answers to a request for samples, and whether it can be trained on."""

from __future__ import annotations

import msgspec

from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.types import Rollout

FINISHED = {"stop": False, "length": True}  # vLLM's finish reasons → truncated
LEAST_LOGPROB = -1e4  # nats; vLLM writes -9999 for minus infinity
ROUNDING = 1e-3  # nats by which a log-softmax may exceed 0


class TokenLogprobs(msgspec.Struct):
    token_logprobs: list[float]


class GivenLogprob(msgspec.Struct):
    logprob: float


class Choice(msgspec.Struct):
    """One sample. The decoder refuses other types, gaps in the lists, and what is no number."""

    index: int
    text: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: list[dict[str, GivenLogprob] | None] | None = None


class Completion(msgspec.Struct):
    """The answer to one request."""

    choices: list[Choice]


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
    ids, logprobs = choice.token_ids, choice.logprobs.token_logprobs if choice.logprobs else None
    if choice.finish_reason not in FINISHED:
        raise RolloutError(f"a sample ended with {choice.finish_reason!r}, expected one of {', '.join(FINISHED)}")
    if logprobs is None or len(ids) != len(logprobs):
        count = "none" if logprobs is None else len(logprobs)
        raise RolloutError(f"found a sample of {len(ids)} tokens with {count} log-probs, expected one for each token")
    if not 1 <= len(ids) <= most:
        raise RolloutError(f"found a sample of {len(ids)} tokens, expected 1 to {most}")
    if min(ids) < 0 or (vocabulary is not None and max(ids) >= vocabulary):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        expected = f"0 to {vocabulary - 1}" if vocabulary is not None else "at least 0"
        raise RolloutError(f"found token id {wrong}, expected {expected}: the server's model has another vocabulary")
    if not (LEAST_LOGPROB <= min(logprobs) and max(logprobs) <= ROUNDING):
        wrong = min(logprobs) if min(logprobs) < LEAST_LOGPROB else max(logprobs)
        raise RolloutError(f"found log-prob {wrong}, expected {LEAST_LOGPROB:g} to 0 nats")
    return Rollout(
        prompt_ids=prompt,
        response_ids=ids,
        logprobs=logprobs,
        weight_version=version,
        truncated=FINISHED[choice.finish_reason],
        text=choice.text,
    )


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
