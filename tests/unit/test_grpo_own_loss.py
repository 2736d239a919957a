"""A policy loss from a user's file: the example against plain float64 arithmetic, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from alphamed_nemo.cli.preflight import check_run
from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.grpo.share import sequences_of, trained_on
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout
from tests.unit.grpo_oracle import Response, as_pack, make_responses

SAPO = "examples/sapo_loss.py:sapo_loss"
OWN = GrpoConfig(loss=SAPO, updates_per_batch=2)
RESPONSES = make_responses(3, [3, 1, 7, 4, 2, 5])


def sapo(logprob: float, old: float, advantage: float) -> tuple[float, float]:
    """The term of one token and its derivative by the log-prob, by hand."""
    ratio = math.exp(logprob - old)
    temperature = 1.0 if advantage > 0 else 1.05
    gate = 1 / (1 + math.exp(-temperature * (ratio - 1)))
    return -advantage * gate * 4 / temperature, -advantage * 4 * gate * (1 - gate) * ratio


def run(cfg: GrpoConfig, responses: list[Response] = RESPONSES):
    totals = BatchTotals(sum(len(response.logprobs) for response in responses), len(responses))
    pack = as_pack(responses)
    logprobs = pack.logprobs.clone().requires_grad_()
    loss, metrics = GrpoLoss(cfg, totals)(logprobs, pack.entropy, pack)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad[pack.mask].tolist(), metrics


def tokens_of(responses: list[Response]) -> list[tuple[float, float, float]]:
    return [(p, o, r.advantage) for r in responses for p, o in zip(r.logprobs, r.old, strict=True)]


def test_the_examples_loss_and_gradient_are_those_of_the_formula():
    loss, gradient, metrics = run(OWN)
    terms = [sapo(*token) for token in tokens_of(RESPONSES)]
    assert loss == pytest.approx(math.fsum(term for term, _ in terms) / len(terms), rel=1e-12)
    assert gradient == pytest.approx([slope / len(terms) for _, slope in terms], rel=1e-12)
    ratios = [math.exp(p - o) for p, o, _ in tokens_of(RESPONSES)]
    assert metrics["ratio_sum"].item() == pytest.approx(math.fsum(ratios), rel=1e-12)
    assert not [name for name in metrics if name.startswith("clipped")]


def test_aggregation_kl_and_entropy_stay_what_they_are():
    settings = {"aggregation": "sequence_mean", "kl_coef": 0.3, "kl_estimator": "k1", "entropy_coef": 0.2}
    loss, _, _ = run(replace(OWN, **settings))
    expected = [
        math.fsum(
            sapo(p, o, response.advantage)[0] + 0.3 * (p - ref) - 0.2 * h
            for p, o, ref, h in zip(response.logprobs, response.old, response.reference, response.entropy, strict=True)
        )
        / len(response.logprobs)
        for response in RESPONSES
    ]
    assert loss == pytest.approx(math.fsum(expected) / len(RESPONSES), rel=1e-12)


def test_on_policy_its_gradient_is_that_of_the_clipped_loss():
    same = [replace(response, old=response.logprobs) for response in RESPONSES]
    assert run(OWN, same)[1] == pytest.approx(run(replace(OWN, loss="clip"), same)[1], rel=1e-12)


def test_a_response_with_advantage_0_is_trained_on_too():
    rollouts = [Rollout([1, 2], [5, 6], [-2.0, -2.0], 0, False, "text") for _ in range(2)]
    scores = [Score(1.0, "A", "correct")] * 2
    question = Question("q", "own", "stem", ("one", "two"), "A")
    groups = [Group(question, rollouts, scores, [1.0, 1.0], [0.0, 0.0], [1.0, 1.0])]
    assert trained_on(groups, OWN) == sequences_of(groups)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return tokens.logprobs", "returned Tensor, expected .policy term, ratio."),
        ("return tokens.logprobs.mean(), tokens.old", r"policy term of shape \(\), expected \(22,\)"),
        ("return tokens.logprobs, tokens.old[:3]", r"ratio of shape \(3,\)"),
        ("return tokens.logprobs.detach(), tokens.old", "without a gradient"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(tmp_path: Path, body: str, message: str):
    (tmp_path / "own.py").write_text(f"def own(tokens, cfg):\n    {body}\n")
    with pytest.raises(ValueError, match=rf"^grpo\.loss: .*{message}"):
        run(replace(OWN, loss=f"{tmp_path}/own.py:own"))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("examples/nosuch.py:own", r"grpo\.loss: no file"),
        ("examples/sapo_loss.py:nosuch", "it defines sapo_loss"),
        ("examples/format_reward.py:format_reward", "asks for 'response'; expected arguments out of tokens, cfg"),
    ],
)
def test_a_wrong_place_is_known_before_any_process(loss: str, message: str):
    cfg = Config(grpo=GrpoConfig(loss=loss))
    check_values(cfg)
    with pytest.raises(ValueError, match=message):
        check_run(cfg)


def test_a_wrong_choice_still_names_the_known_ones():
    with pytest.raises(ValueError, match="found 'clipp', expected one of clip, gspo, cispo, file.py:function"):
        check_values(Config(grpo=GrpoConfig(loss="clipp")))


def test_dual_clip_belongs_to_the_clipped_loss():
    with pytest.raises(ValueError, match=r"grpo\.dual_clip"):
        check_run(Config(grpo=GrpoConfig(loss=SAPO, dual_clip=3.0)))
