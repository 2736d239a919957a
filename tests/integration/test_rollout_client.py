"""What the client returns is what the model that the server holds would say."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphamed_nemo.cli.derived import NEXT_QUESTION
from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.config.limits import MOST_STOPS
from alphamed_nemo.rollout.completion import Completion, rollout_of
from alphamed_nemo.rollout.connection import COMPACT, connect
from alphamed_nemo.rollout.inside_vllm.hanging import WAITING
from alphamed_nemo.rollout.inside_vllm.instance import IDENTITY
from alphamed_nemo.rollout.pool import RolloutError, RolloutPool
from alphamed_nemo.rollout.types import Rollout
from alphamed_nemo.rollout.vllm_command import MODEL_NAME, vllm_command
from tests.integration.conftest import ServedModel

PROMPTS = [[1, 40, 41, 42], [1, *range(50, 90)], [7]]


@pytest.fixture(scope="module")
def reference(tiny_llama: Path):
    """The same weights in transformers, in double precision."""
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float64).eval()


def expected_logprobs(model, rollout: Rollout, temperature: float) -> torch.Tensor:
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids.tolist()])
    with torch.no_grad():
        logits = model(ids).logits[0] / temperature
    targets = ids[0, 1:].unsqueeze(1)
    return logits[:-1].log_softmax(-1).gather(1, targets).squeeze(1)[len(rollout.prompt_ids) - 1 :]


def largest_difference(model, groups: list[list[Rollout]], temperature: float) -> float:
    return max(
        (expected_logprobs(model, rollout, temperature) - torch.tensor(rollout.logprobs.tolist(), dtype=torch.float64))
        .abs()
        .max()
        .item()
        for group in groups
        for rollout in group
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (0.7, 0.5)])
def test_logprobs_are_those_of_the_tempered_distribution_before_top_p(
    rollout_server: ServedModel, reference, temperature: float, top_p: float
):
    groups = rollout_server.pool().generate(
        PROMPTS, n=3, temperature=temperature, top_p=top_p, max_new_tokens=12, seed=5
    )
    assert [len(group) for group in groups] == [3, 3, 3]
    assert largest_difference(reference, groups, temperature) < 1e-4


def test_greedy_takes_the_most_likely_token_and_reports_the_untempered_logprob(rollout_server: ServedModel, reference):
    groups = rollout_server.pool().generate(PROMPTS, temperature=0.0, max_new_tokens=8)
    assert largest_difference(reference, groups, 1.0) < 1e-4
    for (rollout,) in groups:
        with torch.no_grad():
            logits = reference(torch.tensor([rollout.prompt_ids + rollout.response_ids.tolist()])).logits[0]
        assert logits[len(rollout.prompt_ids) - 1 : -1].argmax(-1).tolist() == rollout.response_ids.tolist()


def test_the_models_generation_config_does_not_narrow_the_sampling(rollout_server: ServedModel):
    """The folder asks for top_k 5; of 64 samples from a wide distribution many more first tokens must appear."""
    (group,) = rollout_server.pool().generate([[1, 40, 41]], n=64, max_new_tokens=1, seed=3)
    assert len({rollout.response_ids[0] for rollout in group}) > 10


def test_rollouts_carry_text_version_and_the_truncated_flag(rollout_server: ServedModel, tiny_llama: Path):
    pool = rollout_server.pool()
    version = pool.weight_version()
    groups = pool.generate(PROMPTS, n=32, temperature=1.5, max_new_tokens=40, seed=11)
    rollouts = [rollout for group in groups for rollout in group]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for rollout in rollouts:
        assert rollout.weight_version == version
        assert rollout.truncated == (rollout.response_ids[-1] != tokenizer.eos_token_id)
        assert len(rollout.response_ids) == 40 if rollout.truncated else len(rollout.response_ids) <= 40
        decoded = tokenizer.decode(rollout.response_ids.tolist(), skip_special_tokens=True)
        # vLLM holds back the bytes of a character that the response breaks off in.
        assert rollout.text.rstrip("\ufffd") == decoded.rstrip("\ufffd")
    assert {rollout.truncated for rollout in rollouts} == {True, False}


def test_a_seed_repeats_the_rollouts_and_prompts_do_not_share_their_noise(rollout_server: ServedModel):
    pool = rollout_server.pool()
    same_prompt_twice = [[1, 40, 41], [1, 40, 41]]
    first = pool.generate(same_prompt_twice, n=4, max_new_tokens=8, seed=1)
    again = pool.generate(same_prompt_twice, n=4, max_new_tokens=8, seed=1)
    other = pool.generate(same_prompt_twice, n=4, max_new_tokens=8, seed=2)
    assert first == again
    assert first != other
    responses = [tuple(rollout.response_ids) for group in first for rollout in group]
    assert len(set(responses)) == len(responses)


def test_a_seeded_prompt_as_long_as_the_model_allows_does_not_end_the_engine(rollout_server: ServedModel):
    """vLLM 0.32 dies on CPU where a seeded prompt is split over steps; many long ones would be."""
    long_prompts = [[1 + (i + j) % 500 for j in range(240)] for i in range(48)]
    groups = rollout_server.pool().generate(long_prompts, n=2, max_new_tokens=16, seed=4)
    assert all(len(rollout.response_ids) <= 16 for group in groups for rollout in group)


def test_stream_yields_every_group_once_with_the_index_of_its_prompt(rollout_server: ServedModel):
    prompts = [[1, 10 + i] for i in range(20)]
    seen = dict(rollout_server.pool().stream(prompts, n=2, max_new_tokens=4))
    assert sorted(seen) == list(range(20))
    assert all(rollout.prompt_ids == prompts[index] for index, group in seen.items() for rollout in group)


def test_a_stop_text_ends_a_response_and_is_left_out(rollout_server: ServedModel):
    prompts = [[1, 10 + i] for i in range(12)]
    pool = rollout_server.pool()
    free = dict(pool.stream(prompts, n=2, max_new_tokens=24, seed=5))
    texts = {index: [rollout.text for rollout in group] for index, group in free.items()}
    letter = max("aeiou ", key=lambda one: sum(one in text for group in texts.values() for text in group))
    others = NEXT_QUESTION[: MOST_STOPS - 1]  # as many in all as vLLM takes
    stopped = dict(pool.stream(prompts, n=2, max_new_tokens=24, seed=5, stop=(letter, *others)))
    assert any(letter in text for group in texts.values() for text in group)
    for index, group in stopped.items():
        assert [rollout.text for rollout in group] == [text.partition(letter)[0] for text in texts[index]]


def test_samples_travel_as_arrays_and_are_those_of_the_json(rollout_server: ServedModel):
    connection = rollout_server.pool().clients[0].connection
    body = {"model": MODEL_NAME, "prompt": PROMPTS[:2], "n": 3, "max_tokens": 20, "seed": 7, "logprobs": 0}
    body = msgspec.json.encode(body | {"return_token_ids": True})
    found, sizes = [], []
    for form, decoded in ((COMPACT, msgspec.msgpack.decode), ("application/json", msgspec.json.decode)):
        headers = {"content-type": "application/json", "accept": form}
        answer = connection._request(connection._pool, "POST", "/v1/completions", headers, body=body)
        assert (answer.status, answer.headers["content-type"]) == (200, form)
        choices = sorted(decoded(answer.data, type=Completion).choices, key=lambda choice: choice.index)
        found.append([rollout_of(choice, PROMPTS[choice.index // 3], 0, 20, None) for choice in choices])
        sizes.append(len(answer.data))
    assert found[0] == found[1] and len(found[0]) == 6
    assert sizes[0] < sizes[1] / 3  # short ones; the names of the fields count


def test_prompt_logprobs_equal_the_reference(rollout_server: ServedModel, reference):
    ids = [1, *range(100, 140)]
    found = torch.tensor(rollout_server.pool().clients[0].prompt_logprobs(ids), dtype=torch.float64)
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0, :-1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_prompt_that_is_too_long_is_refused_with_the_servers_reason(rollout_server: ServedModel):
    with pytest.raises(RolloutError, match=r"waited for 1 samples of 1 prompts of up to 300 tokens: HTTP 400.*256"):
        rollout_server.pool().generate([[1] * 300])


def test_a_server_that_is_gone_is_named_with_what_was_waited_for():
    cfg = RolloutConfig(urls=["http://127.0.0.1:9"], api_key="key", retries=1, request_timeout_s=2.0)
    pool = RolloutPool(connect(cfg), cfg)
    with pytest.raises(RolloutError, match=r"127\.0\.0\.1:9: waited for the weight version.*2 attempts"):
        pool.weight_version()


def routes_of(server: ServedModel) -> list[tuple[str, str]]:
    """(method, path) of everything that the app of the server could answer, WEBSOCKET among the methods."""
    argv, env = vllm_command(server.cfg, server.path, 1, server.api_key, cuda=False)
    argv = [argv[0], "-m", "tests.integration.vllm_routes", *argv[3:]]
    printed = subprocess.run(
        argv, env=os.environ | env | {WAITING: "/tmp", IDENTITY: "one"}, capture_output=True, text=True, check=True
    )
    return [(method, path) for methods, path in json.loads(printed.stdout.splitlines()[-1]) for method in methods]


def status_without_key(client: httpx.Client, method: str, path: str, authorization: str = "") -> int:
    headers = {"Authorization": authorization} if authorization else {}
    if method == "WEBSOCKET":
        method = "GET"
        headers |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    return client.request(method, re.sub(r"[{].*?[}]", "x", path), headers=headers).status_code


def test_every_route_but_health_needs_the_key(rollout_server: ServedModel):
    routes = routes_of(rollout_server)
    paths = {path for _, path in routes}
    assert {
        "/v1/completions",
        "/pause",
        "/update_weights",
        "/weight_info",
        "/metrics",
        "/ping",
        "/invocations",
    } <= paths
    assert ("WEBSOCKET", "/v1/realtime") in routes
    others = [("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("OPTIONS", "/pause"), ("GET", "//health")]
    for authorization in ("", "Bearer wrong"):
        with httpx.Client(base_url=rollout_server.url, timeout=20) as client:
            found = {
                (method, path): status_without_key(client, method, path, authorization)
                for method, path in [*routes, *others]
            }
        refused = {asked for asked, status in found.items() if status in (401, 403)}
        assert set(found) - refused <= {("GET", "/health"), ("HEAD", "/health")}
        assert found["WEBSOCKET", "/v1/realtime"] == 403
