"""How prompts are split into requests, and what is refused of an answer."""

from __future__ import annotations

import json
import resource
import threading
from array import array
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.client import _Balance
from alphamed_nemo.rollout.connection import connect
from alphamed_nemo.rollout.pool import RolloutError, RolloutLost, RolloutPool
from alphamed_nemo.rollout.sampling import SEQUENCES_A_REQUEST, split

PROMPTS = [[i] for i in range(50)]


@pytest.mark.parametrize("n", [1, 3, 8, 100])
def test_unseeded_prompts_travel_together_and_each_once(n: int):
    requests = split(PROMPTS, n, None)
    assert [prompt for request in requests for prompt in request.prompts] == PROMPTS
    assert all(PROMPTS[request.first] == request.prompts[0] for request in requests)
    assert all(len(request.prompts) == 1 or len(request.prompts) * n <= SEQUENCES_A_REQUEST for request in requests)


def test_seeded_prompts_travel_alone_with_seeds_whose_samples_do_not_overlap():
    requests = split(PROMPTS, 8, seed=1)
    assert [request.prompts for request in requests] == [[prompt] for prompt in PROMPTS]
    used = {request.seed + sample for request in requests for sample in range(8)}
    assert len(used) == 8 * len(PROMPTS)
    assert all(0 <= seed < 2**63 for seed in used)
    assert [request.seed for request in split(PROMPTS, 8, seed=1)] == [request.seed for request in requests]
    assert requests[0].seed != split(PROMPTS, 8, seed=2)[0].seed


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
    cfg = RolloutConfig(urls=["http://127.0.0.1:9"], retries=0)
    with pytest.raises(ValueError, match=message):
        RolloutPool(connect(cfg), cfg).generate(**{"prompts": [[1]], **arguments})


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


CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "prompt_token_ids": [1],
    "token_ids": [5, 2],
    "logprobs": {"token_logprobs": [-1.0, -2.0]},
    "text": "x",
}


def one_choice(choice: object) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


class VllmAnswers(BaseHTTPRequestHandler):
    """Answers samples with `server.answers`, one after the other, and the weight version with `server.version`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and content in one packet

    def do_GET(self) -> None:
        self._answer(200, self.server.version)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        self._answer(*self.server.answers.pop(0))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def vllm() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), VllmAnswers)
    server.daemon_threads = True
    server.version, server.answers, server.asked = b'{"weight_version": "3"}', [], 0
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def pool_of(vllm: ThreadingHTTPServer, retries: int = 0, timeout_s: float = 10.0) -> RolloutPool:
    urls = [f"http://127.0.0.1:{vllm.server_port}"]
    cfg = RolloutConfig(urls=urls, api_key="key", retries=retries, request_timeout_s=timeout_s)
    return RolloutPool(connect(cfg), cfg, vocabulary=100)


def test_an_answer_becomes_rollouts(vllm):
    vllm.answers = [(200, one_choice(CHOICE | {"finish_reason": "length", "token_ids": [99, 0]}))]
    ((rollout,),) = pool_of(vllm).generate([[1]])
    assert (rollout.response_ids, rollout.logprobs) == (array("i", [99, 0]), array("f", [-1.0, -2.0]))
    assert (rollout.truncated, rollout.weight_version) == (True, 3)


def test_a_pool_may_have_as_many_connections_as_the_system_allows(vllm):
    """1,024 is a common limit, and sixteen servers are sent more requests at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        pool_of(vllm)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == (2**20 if hard == resource.RLIM_INFINITY else hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def without(key: str) -> dict:
    return {name: value for name, value in CHOICE.items() if name != key}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>\nSign in</html>", "found '<html> Sign in</html>', expected vLLM's JSON"),
        (b"", "missing required field `choices`"),
        (b"{}", "missing required field `choices`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"\xff\xfe", "expected vLLM's JSON"),
        (b"[" * 100_000, "expected vLLM's JSON"),
        (b'{"choices": []}', "found 0 samples, or of other prompts, expected 1"),
        (b'{"choices": {}}', "Expected `array`"),
        (json.dumps({"choices": [CHOICE, CHOICE]}).encode(), "found 2 samples"),
        (one_choice(CHOICE | {"prompt_token_ids": [2]}), "of other prompts"),
        (one_choice(without("prompt_token_ids")), "missing required field `prompt_token_ids`"),
        (one_choice(without("token_ids")), "missing required field `token_ids`"),
        (one_choice(without("logprobs")), "found a sample of 2 tokens with no log-probs"),
        (one_choice(CHOICE | {"logprobs": None}), "found a sample of 2 tokens with no log-probs"),
        (one_choice(CHOICE | {"logprobs": {}}), "missing required field `token_logprobs`"),
        (one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0]}}), "with 1 log-probs"),
        (one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0, None]}}), "Expected `float`, got `null`"),
        (one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0, float("nan")]}}), "expected vLLM's JSON"),
        (one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0, 1e300]}}), "found log-prob inf"),
        (one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0, -1e300]}}), "found log-prob -inf"),
        (
            one_choice(CHOICE | {"logprobs": {"token_logprobs": [-1.0, 0.5]}}),
            "found log-prob 0.5, expected -10000 to 0",
        ),
        (one_choice(CHOICE | {"token_ids": [5, 100]}), "found token id 100, expected 0 to 99"),
        (one_choice(CHOICE | {"token_ids": [5, -1]}), "found token id -1, expected 0 to 99"),
        (one_choice(CHOICE | {"token_ids": [5, 2**31]}), "token ids that are no 32-bit integers"),
        (one_choice(CHOICE | {"prompt_token_ids": [2**31]}), "token ids that are no 32-bit integers"),
        (one_choice(CHOICE | {"token_ids": [5, 2.5]}), "Expected `int`"),
        (one_choice(CHOICE | {"token_ids": ["5", "2"]}), "Expected `int`"),
        (one_choice(CHOICE | {"token_ids": [], "logprobs": {"token_logprobs": []}}), "of 0 tokens, expected 1 to 2"),
        (
            one_choice(CHOICE | {"token_ids": [1, 1, 1], "logprobs": {"token_logprobs": [-1.0] * 3}}),
            "of 3 tokens, expected 1 to 2",
        ),
        (one_choice(CHOICE | {"finish_reason": "error"}), "ended with 'error', expected one of stop, length"),
        (one_choice(CHOICE | {"finish_reason": None}), "ended with None"),
        (one_choice(CHOICE | {"text": None}), "Expected `str`"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_is_one_line_at_once(vllm, body: bytes, message: str):
    vllm.answers = [(200, body)]
    with pytest.raises(RolloutError, match=message) as refused:
        pool_of(vllm, retries=3).generate([[1]], max_new_tokens=2)
    assert not isinstance(refused.value, RolloutLost)
    assert f"rollout server http://127.0.0.1:{vllm.server_port}: " in str(refused.value)
    assert "\n" not in str(refused.value) and vllm.asked == 1


def test_samples_that_a_server_gives_up_as_it_ends_are_lost_and_so_are_sampled_again(vllm):
    vllm.answers = [(200, one_choice(CHOICE | {"finish_reason": "abort"}))] * 2
    with pytest.raises(RolloutLost, match="waited for 1 samples of 1 prompts .* it has given them up"):
        pool_of(vllm).generate([[1]])
    with pytest.raises(RolloutLost, match="waited for log-probs of 2 given tokens: it has given them up"):
        pool_of(vllm).clients[0].prompt_logprobs([1, 5])


@pytest.mark.parametrize(
    "given",
    [None, [], [None], [None, None], [None, {"6": {"logprob": -1.0}}], [None, {"5": {}}], [None, {"5": -1.0}], 7],
)
def test_log_probs_of_given_tokens_are_one_for_each_or_an_error(vllm, given: object):
    answer = CHOICE | {"prompt_token_ids": [1, 5]}
    vllm.answers = [(200, one_choice(answer | {"prompt_logprobs": [None, {"5": {"logprob": -1.5}}]}))]
    vllm.answers += [(200, one_choice(answer | {"prompt_logprobs": given}))]
    (client,) = pool_of(vllm).clients
    assert client.prompt_logprobs([1, 5]) == [-1.5]
    with pytest.raises(RolloutError, match=f"rollout server http://127.0.0.1:{vllm.server_port}: "):
        client.prompt_logprobs([1, 5])


@pytest.mark.parametrize("version", [b"{}", b"[]", b"<html>", b'{"weight_version": null}', b'{"weight_version": "x"}'])
def test_a_weight_version_that_is_none_is_one_line(vllm, version: bytes):
    vllm.version = version
    with pytest.raises(RolloutError, match=f"rollout server http://127.0.0.1:{vllm.server_port}: ") as refused:
        pool_of(vllm).weight_version()
    assert "\n" not in str(refused.value)


def test_a_server_that_is_busy_or_unwell_is_asked_again(vllm, monkeypatch):
    monkeypatch.setattr("alphamed_nemo.rollout.connection.pause_s", lambda *_: 0.05)
    vllm.answers = [(429, b""), (503, b"{}"), (429, b"later"), (502, b"<html>"), (429, b""), (200, one_choice(CHOICE))]
    assert pool_of(vllm, retries=2).generate([[1]])[0][0].response_ids == array("i", [5, 2])
    vllm.answers = [(503, b"<html>\nGone")] * 3
    with pytest.raises(RolloutLost, match="HTTP 503: '<html> Gone' .2 attempts"):
        pool_of(vllm, retries=1).generate([[1]])
    vllm.answers = [(429, b"")] * 100
    with pytest.raises(RolloutLost, match="for 3 s: HTTP 429"):
        pool_of(vllm, retries=1, timeout_s=3.0).generate([[1]])
    vllm.answers = [(404, b"<html>\nNot here")]
    with pytest.raises(RolloutError, match="HTTP 404: '<html> Not here'"):
        pool_of(vllm, retries=3).generate([[1]])
