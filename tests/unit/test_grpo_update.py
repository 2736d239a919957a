"""What an update spends its passes on, and that leaving the rest out changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphamed_nemo.config import Config, GrpoConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import dimensions
from alphamed_nemo.grpo import share
from alphamed_nemo.grpo.clock import StepClock
from alphamed_nemo.grpo.collect import Collected, complete_group
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.rollout_metrics import rollout_metrics
from alphamed_nemo.grpo.share import sequences_of, shares, trained_on
from alphamed_nemo.grpo.update import Updater
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.report.watch import Watch
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout
from tests.spawn import spawn
from tests.tiny_hf import write_model

QUESTION = Question("q", "own", "stem", ("one", "two"), "A")


def rollout(prompt: list[int], response: list[int], truncated: bool = False) -> Rollout:
    return Rollout(prompt, response, [-2.0] * len(response), 0, truncated, "text")


def group(prompt: list[int], advantages: list[float], weights: list[float] | None = None) -> Group:
    rollouts = [rollout(prompt, [5 + i, 6, 7 + i][: 2 + i % 2]) for i in range(len(advantages))]
    scores = [Score(float(a > 0), "A", "correct") for a in advantages]
    rewards = [score.reward for score in scores]
    return Group(QUESTION, rollouts, scores, rewards, advantages, weights or [1.0] * len(advantages))


EFFECTIVE, ALL_RIGHT, ALL_WRONG = group([1, 2], [1.0, -1.0]), group([3, 4, 8], [0.0, 0.0]), group([9], [0.0, 0.0])
BATCH = [ALL_RIGHT, EFFECTIVE, ALL_WRONG]


def test_only_responses_with_a_gradient_are_trained_on():
    assert trained_on(BATCH, GrpoConfig()) == sequences_of([EFFECTIVE])


@pytest.mark.parametrize("cfg", [GrpoConfig(kl_coef=0.01), GrpoConfig(entropy_coef=0.01)], ids=["kl", "entropy"])
def test_a_kl_or_entropy_term_gives_every_response_a_gradient(cfg: GrpoConfig):
    assert trained_on(BATCH, cfg) == sequences_of(BATCH)


@pytest.mark.parametrize(
    "batch",
    [[ALL_RIGHT, ALL_WRONG], [group([1, 2], [1.0, -1.0], [0.0, 0.0]), ALL_RIGHT], [group([1], [1.0, -1.0], [0.0] * 2)]],
    ids=["no group is effective", "the effective one is masked", "every response is masked"],
)
def test_where_nothing_has_a_gradient_the_shortest_response_stands_for_the_batch(batch: list[Group]):
    (sequence,) = trained_on(batch, GrpoConfig())
    assert sequence.advantage == 0.0
    assert len(sequence) == min(len(r.prompt_ids) + len(r.response_ids) for each in batch for r in each.rollouts)


def test_a_batch_that_was_cut_off_as_a_whole_is_masked_counted_and_told_of():
    cfg = Config()
    cfg.grpo.mask_truncated = True
    rollouts = [rollout([1, 2], [5, 6], truncated=True) for _ in range(2)]
    scores = [Score(1.0, "A", "correct"), Score(0.0, None, "no_answer")]
    cut = complete_group(QUESTION, rollouts, scores, cfg.grpo, cfg.rollout.max_new_tokens)
    assert sequences_of([cut]) == [] and [sequence.advantage for sequence in trained_on([cut], cfg.grpo)] == [0.0]
    (told,) = Watch().see(rollout_metrics(Collected([cut], 1, 1, 1, {}), cfg))
    assert told.text.startswith("every response was cut off (with grpo.mask_truncated nothing was trained on)")


def updated(hf: str, skip: bool) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Weights and metrics after three steps: a usual one, one without any gradient, one where all is masked."""
    initialize(ParallelConfig())
    cfg = Config()
    cfg.grpo = replace(cfg.grpo, tokens_per_microbatch=128, updates_per_batch=1)
    cfg.optim = OptimConfig(lr=1e-2, weight_decay=0.1, schedule="linear")
    policy = MegatronPolicy(ModelConfig(path=hf, dtype="float32"), cfg.parallel, cfg.optim, hf, total_steps=5)
    if not skip:
        share.trained_on = lambda groups, _cfg: sequences_of(groups) or trained_on(groups, _cfg)
    updater = Updater(cfg, policy)
    masked = [group([1, 2], [1.0, -1.0], [0.0, 0.0])]
    metrics = []
    for step, batch in enumerate((BATCH, [ALL_RIGHT, ALL_WRONG], masked)):
        (own,) = shares(
            Collected(batch, len(batch), len(batch), 1, {}), cfg, dimensions(policy.hf_config), share_prompts=True
        )
        metrics.append(updater.update(own, StepClock(), step))
    return dict(policy.hf_weights()), metrics


def annealed(hf: str) -> list[dict[str, float]]:
    """Metrics of four steps under a KL term that falls; after the first, advantages are 0 and the loss is that term."""
    initialize(ParallelConfig())
    cfg = Config()
    cfg.grpo = replace(cfg.grpo, tokens_per_microbatch=128, steps=4, kl_coef=0.5, kl_schedule="linear")
    cfg.optim = OptimConfig(lr=1e-2)
    policy = MegatronPolicy(ModelConfig(path=hf, dtype="float32"), cfg.parallel, cfg.optim, hf, total_steps=4)
    updater, metrics = Updater(cfg, policy), []
    for step, batch in enumerate((BATCH, *[[ALL_RIGHT, ALL_WRONG]] * 3)):
        collected = Collected(batch, len(batch), len(batch), 1, {})
        (own,) = shares(collected, cfg, dimensions(policy.hf_config), share_prompts=True)
        metrics.append(updater.update(own, StepClock(), step))
    return metrics


def test_a_kl_term_falls_linearly_to_the_end(tmp_path: Path):
    (metrics,) = spawn(annealed, 1, str(write_model(tmp_path, "llama")))
    assert [row["kl_coef"] for row in metrics] == [0.5, 0.375, 0.25, 0.125]
    for row, coefficient in zip(metrics[1:], (0.375, 0.25, 0.125), strict=True):
        assert row["kl"] > 0
        assert row["loss"] == pytest.approx(coefficient * row["kl"], rel=1e-5)


def test_leaving_them_out_changes_neither_loss_nor_gradient_nor_weights(tmp_path: Path):
    hf = str(write_model(tmp_path, "llama"))
    ((weights, metrics),) = spawn(updated, 1, hf, True)
    ((every, all_metrics),) = spawn(updated, 1, hf, False)
    for row, full in zip(metrics, all_metrics, strict=True):
        assert row["loss"] == pytest.approx(full["loss"], abs=1e-7)
        assert row["grad_norm"] == pytest.approx(full["grad_norm"], rel=1e-5, abs=1e-9)
        assert row["lr"] == full["lr"]
    assert metrics[0]["grad_norm"] > 0 and metrics[1]["grad_norm"] == metrics[2]["grad_norm"] == 0
    for name, value in every.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
    assert [row["processed_tokens"] for row in metrics] == [9.0, 3.0, 4.0]
