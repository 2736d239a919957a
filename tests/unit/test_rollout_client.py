"""How prompts are split into requests, and what the client refuses."""

from __future__ import annotations

import pytest

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.client import SEQUENCES_A_REQUEST, RolloutClient, RolloutError, _Balance, _rollout, _split

PROMPTS = [[i] for i in range(50)]


@pytest.mark.parametrize("n", [1, 3, 8, 100])
def test_unseeded_prompts_travel_together_and_each_once(n: int):
    requests = _split(PROMPTS, n, None)
    assert [prompt for request in requests for prompt in request.prompts] == PROMPTS
    assert all(PROMPTS[request.first] == request.prompts[0] for request in requests)
    assert all(len(request.prompts) == 1 or len(request.prompts) * n <= SEQUENCES_A_REQUEST for request in requests)


def test_seeded_prompts_travel_alone_with_seeds_whose_samples_do_not_overlap():
    requests = _split(PROMPTS, 8, seed=1)
    assert [request.prompts for request in requests] == [[prompt] for prompt in PROMPTS]
    used = {request.seed + sample for request in requests for sample in range(8)}
    assert len(used) == 8 * len(PROMPTS)
    assert all(0 <= seed < 2**63 for seed in used)
    assert [request.seed for request in _split(PROMPTS, 8, seed=1)] == [request.seed for request in requests]
    assert requests[0].seed != _split(PROMPTS, 8, seed=2)[0].seed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1], []]}, "prompts"),
        ({"n": 0}, "n and max_new_tokens"),
        ({"max_new_tokens": 0}, "n and max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_any_request(arguments: dict, message: str):
    client = RolloutClient("http://127.0.0.1:9", "key", RolloutConfig(retries=0))
    with pytest.raises(ValueError, match=message):
        client.generate(**{"prompts": [[1]], **arguments})


def test_a_request_goes_to_the_engine_with_the_fewest_sequences_under_way():
    balance = _Balance(3)
    with balance.engine(8) as a, balance.engine(2) as b, balance.engine(2) as c, balance.engine(4) as d:
        assert [header["X-data-parallel-rank"] for header in (a, b, c, d)] == ["0", "1", "2", "1"]
        with balance.engine(1) as e:
            assert e == balance.header(2)
        assert balance.under_way == [8, 6, 2]
    with pytest.raises(ZeroDivisionError), balance.engine(5):
        raise ZeroDivisionError
    assert balance.under_way == [0, 0, 0]
    with _Balance(1).engine(8) as only:
        assert only == {}


def choice(**changed) -> dict:
    base = {"finish_reason": "stop", "token_ids": [5, 2], "logprobs": {"token_logprobs": [-1.0, -2.0]}, "text": "x"}
    return base | changed


def test_a_choice_becomes_a_rollout():
    rollout = _rollout([1], choice(finish_reason="length"), version=3)
    assert (rollout.response_ids, rollout.logprobs, rollout.truncated, rollout.weight_version) == (
        [5, 2],
        [-1.0, -2.0],
        True,
        3,
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"finish_reason": "abort"},
        {"token_ids": [5]},
        {"logprobs": {"token_logprobs": [-1.0, None]}},
    ],
)
def test_a_broken_choice_is_an_error(broken: dict):
    with pytest.raises(RolloutError):
        _rollout([1], choice(**broken), version=0)
