"""A server of two engines and two HTTP processes: both engines get the weights of a refit, and both sample.

The model's head is tied, so that both engines have to pack it anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from alphamed_nemo.rollout.check import check_served_weights
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import read_manifest
from tests.integration.conftest import ServedModel, served, write_tiny_llama
from tests.integration.test_rollout_refit import IDS, load, logprobs

CLOSE = 1e-4  # nats; noise of 0.02 on every weight moves log-probs by a thousand times as much


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    model = write_tiny_llama(tmp_path_factory.mktemp("tied"), tied=True)
    with served(model, tmp_path_factory.mktemp("engines"), engines=2, api_servers=2) as server:
        yield server


def tokens_by_engine(server: ServedModel) -> dict[str, float]:
    """Tokens that each engine has generated, as vLLM counts them."""
    metrics = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.api_key}"}).text
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:generation_tokens_total{")]
    return {line.split('engine="')[1][0]: float(line.split()[-1]) for line in lines}


def test_a_refit_reaches_both_engines(server: ServedModel):
    pool = server.pool()
    transfer = WeightTransfer(server.connections(), server.cfg.rollout, read_manifest(server.path))
    for version, seed in ((1, 1), (2, 2)):
        new = load(server.path, changed_by=0.02, seed=seed)
        transfer.refit(new.named_parameters(), version)
        assert check_served_weights(pool, [(IDS, logprobs(new, IDS))], CLOSE) < CLOSE
        groups = pool.generate([IDS, IDS[:50]], n=2, max_new_tokens=6, seed=version)
        for group, prompt in zip(groups, (IDS, IDS[:50]), strict=True):
            for rollout in group:
                expected = logprobs(new, prompt + rollout.response_ids.tolist())[len(prompt) - 1 :]
                assert rollout.logprobs.tolist() == pytest.approx(expected, abs=CLOSE)
    spoilt = [pair for pair in load(server.path).named_parameters() if pair[0] != "model.norm.weight"]
    with pytest.raises(RolloutError, match="1 missing: model.norm.weight"):
        transfer.refit(iter(spoilt), 3)
    check_served_weights(pool, [(IDS, logprobs(new, IDS))], CLOSE)
    transfer.close()


def test_requests_are_shared_evenly_and_the_answers_do_not_depend_on_the_engine(server: ServedModel):
    pool = server.pool()
    prompts = [[1, *range(30 + i, 60 + i)] for i in range(8)]
    before = tokens_by_engine(server)
    seeds = list(range(100, 900, 100))
    groups = pool.generate(prompts, n=4, max_new_tokens=8, seed=seeds)
    after = tokens_by_engine(server)
    sampled = sum(len(rollout.response_ids) for group in groups for rollout in group)
    made = {engine: after[engine] - before[engine] for engine in after}
    assert sum(made.values()) == sampled
    assert len(made) == 2 and max(made.values()) <= 0.75 * sampled
    again = pool.generate(prompts[::-1], n=4, max_new_tokens=8, seed=seeds[::-1])[::-1]
    assert [[r.response_ids for r in group] for group in again] == [[r.response_ids for r in g] for g in groups]
