"""The batches of a run are the same whatever the number of rollout servers, and whichever of them are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo import scoring
from alphamed_nemo.grpo.collect import Collected, Collector, question_order
from alphamed_nemo.grpo.recovery import RolloutPlane, Servers
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rollout import refit
from alphamed_nemo.rollout.connection import RolloutError, connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest
from tests.stand_in_vllm import LOGPROB, StandIn, settings, stand_ins

COMPLETIONS = "/v1/completions"
TEXTS = dict(enumerate([r"\boxed{A}"] * 4 + [r"\boxed{B}"] * 3))  # by a response's first token; the last says nothing
QUESTIONS = [
    Question(f"q{number:02}", "test", f"Question {number}?", ("yes", "no"), "A", level=1 + number % 3)
    for number in range(17)
]
STEPS = 4
METHODS = {
    "plain": {},
    "dynamic sampling": {"dynamic_sampling": True, "samples_per_question": 2},
    "one step off-policy": {"staleness": 1},
    "curriculum": {"curriculum": "easy_first"},
    "pools": {"curriculum": "pools", "pool_hard": 0.25, "pool_easy": 0.25},
    "pools and dynamic sampling": {"curriculum": "pools", "dynamic_sampling": True, "samples_per_question": 2},
    "all": {"dynamic_sampling": True, "samples_per_question": 2, "staleness": 1, "curriculum": "easy_first"},
}


class Tokenizer:
    """A token for each character."""

    chat_template = eos_token = None
    added_tokens_decoder: dict[int, Any] = {}

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


class Policy:
    """Has the weights that the servers are given, and the log-probs that they answer."""

    hf_config = SimpleNamespace(vocab_size=1000)

    def hf_weights(self, everywhere: bool, copies: bool) -> Iterator[tuple[str, torch.Tensor]]:
        yield "weight", torch.ones(2)

    def logprobs(self, batches: list, temperature: float) -> list[torch.Tensor]:
        return [torch.full(batch.mask.shape, LOGPROB, dtype=torch.float64) for batch in batches]


class Alone:
    """The exchange of a trainer of one rank."""

    rank = 0

    @staticmethod
    def from_rank0(make):
        return make()


RUNS: list[Run] = []  # of the test, to be closed


class Run:
    """A run on some servers, step by step."""

    def __init__(self, servers: list[StandIn], stream: dict | None = None, **grpo: object) -> None:
        self.cfg = cfg = Config()
        cfg.rollout = settings(servers, max_new_tokens=12)
        cfg.model.max_length = 200
        cfg.grpo.steps, cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = STEPS, 4, 4
        for name, value in grpo.items():
            setattr(cfg.grpo, name, value)
        connections = connect(cfg.rollout)
        questions = question_order(QUESTIONS, cfg.run.seed, cfg.grpo)
        if stream is not None:
            questions.restore(stream)
        rewards = SimpleNamespace(score=score_all)
        collector = Collector(cfg, questions, Tokenizer(), RolloutPool(connections, cfg.rollout), rewards)
        transfer = WeightTransfer(connections, cfg.rollout, Manifest({"weight": (2,)}, "float32"), cuda=False)
        self.pool, self.transfer = collector.rollouts, transfer
        self.plane = RolloutPlane(cfg, Policy(), Alone(), Servers(collector, transfer))
        self.plane.check.limit = 1e-9
        RUNS.append(self)

    def steps(self, first: int = 0, last: int = STEPS, lose: dict[int, list[tuple[StandIn, dict]]] | None = None):
        """Batches; `lose`: step → servers, and at which call each is lost, counted from this step on."""
        self.plane.refit(first)
        for step in range(first, last):
            for server, calls in (lose or {}).get(step, ()):
                server.lose_at = {path: server.counted[path] + number for path, number in calls.items()}
            yield self.plane.batch(step)
            self.plane.refit(step + 1)


def sampled(batch: Collected) -> tuple:
    """What the trainer sees of a batch, and what a checkpoint keeps of it."""
    groups = [
        (group.question.id, group.rewards, group.advantages, [vars(rollout) for rollout in group.rollouts])
        for group in batch.groups
    ]
    return groups, batch.asked, batch.rounds, batch.by_level, batch.stream


def batches(run: Run, **how: Any) -> list[tuple]:
    return [sampled(batch) for batch in run.steps(**how)]


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with stand_ins(4, TEXTS) as servers:
        yield servers
    while RUNS:
        RUNS.pop().transfer.close()


@pytest.fixture(scope="module")
def undisturbed() -> Callable[[str], list[tuple]]:
    """The batches of a run on one server, by method."""

    @cache
    def found(method: str) -> list[tuple]:
        with stand_ins(1, TEXTS) as servers:
            return batches(Run(servers, **METHODS[method]))

    return found


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "POLL_EVERY_S", 0.01)


@pytest.mark.parametrize("method", METHODS)
def test_a_runs_batches_do_not_depend_on_the_number_of_servers(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]], method: str
) -> None:
    expected = undisturbed(method)
    assert len({str(groups) for groups, *_ in expected}) == STEPS
    if METHODS[method].get("dynamic_sampling"):
        assert max(rounds for _, _, rounds, *_ in expected) > 1
    assert batches(Run(servers[:2], **METHODS[method])) == expected
    assert batches(Run(servers, **METHODS[method])) == expected


def test_responses_are_scored_while_others_are_sampled(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SCORED_TOGETHER", 1)
    run, scored, asked = Run(servers[:1]), Event(), count(1)
    answer = servers[0].answer

    def answering(path: str, body: dict):
        if path == COMPLETIONS and "prompt_logprobs" not in body and next(asked) == run.cfg.grpo.questions_per_step:
            assert scored.wait(30)  # the last question of a batch
        return answer(path, body)

    def score(items: list) -> list:
        scored.set()
        return score_all(items)

    servers[0].answer, run.plane.servers.collector.rewards.score = answering, score
    assert batches(run, last=1) == undisturbed("plain")[:1]
    assert scored.is_set()


@pytest.mark.parametrize("method", ["plain", "dynamic sampling", "pools and dynamic sampling", "all"])
def test_a_run_that_is_resumed_with_other_servers_goes_on_as_it_would_have(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]], method: str
) -> None:
    grpo = METHODS[method]
    first = batches(Run(servers[:2], **grpo), last=2)
    *_, stream = first[-1]
    rest = batches(Run(servers, stream=stream, **grpo), first=2)
    if "staleness" in grpo:  # the first batch is on-policy, since none was sampled ahead
        assert rest == batches(Run(servers[:1], stream=stream, **grpo), first=2)
    else:
        assert [*first, *rest] == undisturbed(method)


@pytest.mark.parametrize("method", ["plain", "one step off-policy", "pools", "all"])
def test_a_server_lost_in_mid_rollout_changes_no_batch_and_joins_again(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]], method: str
) -> None:
    run, serving = Run(servers[1:3], **METHODS[method]), []
    found = []
    for step, batch in enumerate(run.steps(lose={1: [(servers[1], {COMPLETIONS: 2})]})):
        found.append(sampled(batch))
        serving.append(len(run.pool.serving))
        if step == 2:
            servers[1].back()
    assert found == undisturbed(method)
    assert servers[1].start == 2 and serving[0] == 2 and 1 in serving and len(run.pool.serving) == 2
    assert servers[1].version == servers[2].version == str(STEPS)


@pytest.mark.parametrize(
    ("cuda", "offload_trainer", "expected"),
    [
        (True, None, ["sleep", "take"]),
        (True, True, ["sleep", "take"]),
        (True, False, ["sleep"]),
        (False, None, []),
        (False, True, ["take"]),
    ],
)
def test_colocated_servers_sleep_before_an_update_whatever_the_trainer_keeps(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, offload_trainer: bool | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    cfg, done = Config(), []
    cfg.rollout.offload_trainer, cfg.model.max_length = offload_trainer, 200
    policy = Policy()
    policy.offload = SimpleNamespace(take=lambda: done.append("take"))
    servers = SimpleNamespace(
        collector=SimpleNamespace(rollouts=None),
        transfer=SimpleNamespace(make_room=lambda limit_s: done.append("sleep")),
    )
    exchange = SimpleNamespace(rank=0, group=None, from_rank0=lambda make: make())
    RolloutPlane(cfg, policy, exchange, servers).make_room()
    assert done == expected


@pytest.mark.parametrize("path", ["/update_weights", "/resume"])
def test_a_server_lost_in_mid_refit_changes_no_batch_and_joins_again(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]], path: str
) -> None:
    run, found = Run(servers[1:3]), []
    for step, batch in enumerate(run.steps(lose={1: [(servers[1], {path: 1})]})):
        found.append(sampled(batch))
        if step == 2:
            assert servers[1].lost
            servers[1].back()
    assert found == undisturbed("plain") and len(run.pool.serving) == 2


def test_a_server_lost_while_it_is_checked_is_left_out(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]]
) -> None:
    run = Run(servers[1:3])
    servers[2].lose_at = {COMPLETIONS: 1}  # the check of the first refit
    assert batches(run) == undisturbed("plain")
    assert len(run.pool.serving) == 1 and servers[2].sampled == []


def test_only_a_batch_whose_servers_are_all_lost_waits_and_is_sampled_again(
    servers: list[StandIn], undisturbed: Callable[[str], list[tuple]]
) -> None:
    for server, looks in ((servers[1], 7), (servers[2], 5)):
        server.back_at = looks
    lost = {2: [(servers[1], {COMPLETIONS: 2}), (servers[2], {COMPLETIONS: 3})]}
    run = Run(servers[1:3])
    assert batches(run, lose=lost) == undisturbed("plain")
    assert servers[1].start == servers[2].start == 2 and len(run.pool.serving) == 2


def test_servers_that_are_all_lost_again_and_again_end_the_run(servers: list[StandIn]) -> None:
    run = Run(servers[:2])
    answers = {id(server): server.answer for server in servers[:2]}

    def sampling_ends_it(server: StandIn):
        def answer(path: str, body: dict):
            if path == "/health" and server.lost:
                server.back()
            if path == COMPLETIONS and "prompt_logprobs" not in body:
                server.lost = True
            return answers[id(server)](path, body)

        return answer

    for server in servers[:2]:
        server.answer = sampling_ends_it(server)
    with pytest.raises(RolloutError, match=r"step 0: given up after 3 recoveries: .*; "):
        batches(run)


def test_a_server_with_other_weights_under_the_right_version_is_named(servers: list[StandIn]) -> None:
    servers[1].logprob = LOGPROB - 0.5
    run = Run(servers[:3])
    run.plane.check.rounding = "float32"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alphamed_nemo.grpo.refit_check.sensitivity", lambda policy, batch: torch.ones(1))
        with pytest.raises(RolloutError, match=rf"{servers[1].url} \(weight version 0\) differs .* by 0\.5 nats"):
            batches(run)
