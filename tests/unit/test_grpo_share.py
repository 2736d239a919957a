"""What each data-parallel rank gets of a batch: together exactly what one rank would train on."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import FAMILIES, Dimensions
from alphamed_nemo.grpo.advantages import advantages
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.share import sample, shares, split, trained_on
from alphamed_nemo.policy.packing import PackedBatch, pack
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout

MODEL = Dimensions(FAMILIES["llama"], 64, 128, 2, 4, 2, 16, 512, tied=False)
QUESTION = Question("q", "clinic", "Which?", ("one", "two"), "A")


def batch(questions: int, samples: int) -> Collected:
    """Prompts and responses of many lengths, with log-probs that float32 rounds."""
    groups = []
    for q in range(questions):
        prompt = [3 + q, *range(5, 9 + q % 4)]
        responses = [[10 + (q + i + t) % 50 for t in range(2 + (7 * q + 3 * i) % 30)] for i in range(samples)]
        rollouts = [Rollout(prompt, r, [-0.1 * (1 + t) for t in range(len(r))], 4, False, "text") for r in responses]
        rewards = [float((q + i) % 3 == 0) for i in range(samples)]
        scores = [Score(reward, "A", "correct" if reward else "wrong") for reward in rewards]
        groups.append(Group(QUESTION, rollouts, scores, rewards, advantages(rewards, Config().grpo), [1.0] * samples))
    return Collected(groups, questions, questions, 1, {})


def settings(data: int, minibatches: int) -> Config:
    cfg = Config()
    cfg.parallel.data, cfg.grpo.updates_per_batch, cfg.grpo.tokens_per_microbatch = data, minibatches, 256
    return cfg


def same(one: PackedBatch, other: PackedBatch) -> bool:
    pairs = [(getattr(one, part.name), getattr(other, part.name)) for part in fields(PackedBatch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize(("data", "minibatches"), [(1, 1), (3, 1), (2, 2)])
def test_a_share_is_laid_out_as_the_whole_batch_would_be(share_prompts: bool, data: int, minibatches: int):
    cfg, collected = settings(data, minibatches), batch(12, 4)
    sent = [pickle.loads(pickle.dumps(share)) for share in shares(collected, cfg, MODEL, share_prompts)]
    assert len(sent) == data
    for rank, share in enumerate(sent):
        for part, minibatch in zip(split(collected.groups, minibatches), share.minibatches, strict=True):
            expected = pack(trained_on(part, cfg.grpo), 256, rank, data, share_prompts)
            assert all(map(same, minibatch.lay_out(), expected)) and len(minibatch.packs) == len(expected)
            assert minibatch.totals.sequences == sum(len(group.rollouts) for group in part)


def test_every_rank_gets_the_same_metrics_and_the_same_sample():
    first, *others = shares(batch(12, 4), settings(3, 1), MODEL, share_prompts=True)
    assert first.metrics["reward/mean"] == pytest.approx(1 / 3)
    assert all(share.metrics == first.metrics and share.sample == first.sample for share in others)


def test_a_rank_receives_only_what_it_trains_on():
    collected = batch(64, 8)
    (whole,) = shares(collected, settings(1, 1), MODEL, share_prompts=True)
    trained = [s for families in whole.minibatches[0].packs for family in families for s in family]
    # int32 ids and float32 log-probs of a response, a prompt once for its group, 100 bytes of pickle a sequence
    room = sum(8 * len(s.response_ids) + 4 * len(s.prompt_ids) + 100 for s in trained) + 50_000
    assert len(pickle.dumps(whole)) < room
    parts = [len(pickle.dumps(share)) for share in shares(collected, settings(4, 1), MODEL, share_prompts=True)]
    assert max(parts) < 0.25 * room + 50_000


def group(lengths: list[int]) -> Group:
    rollouts = [Rollout([1, 2], list(range(length)), [0.0] * length, 0, False, "") for length in lengths]
    return Group(QUESTION, rollouts, [], [])


def test_the_limit_is_measured_on_responses_of_as_many_questions_as_fit():
    groups = [group([3, 30]), group([4, 5]), group([20, 6])]
    lengths = [len(sequence.response_ids) for sequence in sample(groups, 22)]
    assert lengths == [3, 4, 5]  # with prompts 5 + 6 + 7 of 22: first of each question, then the seconds


def test_one_response_is_measured_on_however_long_it_is():
    assert [len(sequence) for sequence in sample([group([50, 3])], 10)] == [52]
