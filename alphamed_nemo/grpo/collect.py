"""Questions → prompts → rollouts → scores → groups with advantages. Rank 0 only; everything is plain Python data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from alphamed_nemo.config import Config
from alphamed_nemo.data.prompts import encode_prompts
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.advantages import advantages
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.overlong import overlong_penalty
from alphamed_nemo.grpo.question_stream import QuestionStream
from alphamed_nemo.rewards.functions import needs_question
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardItem
from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.types import Rollout


class SamplingError(RuntimeError):
    """Dynamic sampling found too few effective groups, or a rollout has the wrong weights."""


@dataclass
class Collected:
    """One step's batch.

    Attributes:
        groups: the groups to train on, `grpo.questions_per_step` of them.
        asked: groups sampled in all, kept or not; more than `len(groups)` only with dynamic sampling.
        asked_effective: how many of those were effective.
        by_level: difficulty level → groups sampled and how many of those were effective; questions without a level
            are not in it.
        rounds: sampling rounds.
        seconds: time spent in `generation` and `reward`.
        stream: state of the question order after this batch, for the checkpoint.
        stream_before: the same before it.
    """

    groups: list[Group]
    asked: int
    asked_effective: int
    rounds: int
    seconds: dict[str, float]
    stream: dict = field(default_factory=dict)
    stream_before: dict = field(default_factory=dict)
    by_level: dict[int, tuple[int, int]] = field(default_factory=dict)


def request_seed(seed: int, step: int, number: int) -> int:
    """A seed of its own for every sampling round of every step, below 2³¹ as vLLM wants it."""
    return (seed * 1_000_003 + step * 10_007 + number) % 2**31


class Collector:
    """Fills one batch of groups a step from the rollout server and the reward server."""

    def __init__(
        self, cfg: Config, stream: QuestionStream, tokenizer, rollouts: RolloutClient, rewards: RewardClient
    ) -> None:
        self.cfg = cfg
        self.stream = stream
        self.tokenizer = tokenizer
        self.rollouts = rollouts
        self.rewards = rewards

    def collect(self, step: int) -> Collected:
        """One batch for `step`.

        With dynamic sampling, groups whose rewards are all equal are replaced by further questions until the batch
        is full (DAPO, arXiv 2503.14476, section 3.2). Survivors stay from round to round; questions of surplus
        groups go back to the front of the order.

        Raises:
            SamplingError: the batch is not full after `grpo.max_sampling_rounds`.
            RolloutError, RewardError: a server failed. The order of questions is then as before the call, so that the
                same batch can be sampled again.
        """
        before = self.stream.state()
        try:
            collected = self._collect(step)
        except BaseException:
            self.stream.restore(before)
            raise
        collected.stream_before = before
        return collected

    def _collect(self, step: int) -> Collected:
        grpo = self.cfg.grpo
        kept: list[Group] = []
        asked = effective = rounds = 0
        by_level: dict[int, tuple[int, int]] = {}
        seconds = {"generation": 0.0, "reward": 0.0}
        while len(kept) < grpo.questions_per_step:
            if rounds == (grpo.max_sampling_rounds if grpo.dynamic_sampling else 1):
                raise SamplingError(
                    f"step {step}: {len(kept)} effective groups of {grpo.questions_per_step} after {rounds} rounds "
                    f"({effective} of {asked} groups were effective); the questions are too easy or too hard for "
                    "this policy: add others, lower grpo.questions_per_step or raise grpo.max_sampling_rounds"
                )
            groups = self._round(self.stream.take(grpo.questions_per_step), step, rounds, seconds)
            rounds += 1
            asked += len(groups)
            for group in groups:
                if (level := group.question.level) is not None:
                    sampled, uneven = by_level.get(level, (0, 0))
                    by_level[level] = (sampled + 1, uneven + group.effective)
            survivors = [group for group in groups if group.effective]
            effective += len(survivors)
            kept += survivors if grpo.dynamic_sampling else groups
        surplus = kept[grpo.questions_per_step :]
        self.stream.put_back([group.question for group in surplus])
        groups = kept[: grpo.questions_per_step]
        return Collected(groups, asked, effective, rounds, seconds, self.stream.state(), by_level=by_level)

    def _round(self, questions: list[Question], step: int, number: int, seconds: dict[str, float]) -> list[Group]:
        cfg = self.cfg
        prompts = encode_prompts(questions, self.tokenizer, cfg.data)
        started = time.perf_counter()
        sampled = self.rollouts.generate(
            prompts,
            n=cfg.grpo.samples_per_question,
            temperature=cfg.rollout.temperature,
            top_p=cfg.rollout.top_p,
            max_new_tokens=cfg.rollout.max_new_tokens,
            seed=request_seed(cfg.run.seed, step, number),
        )
        generated = time.perf_counter()
        asked = needs_question(cfg.reward)
        items = [
            RewardItem(
                rollout.text,
                question.answer,
                question.options,
                prompt=self.tokenizer.decode(prompt) if asked else "",
                question=question if asked else None,
            )
            for question, prompt, rollouts in zip(questions, prompts, sampled, strict=True)
            for rollout in rollouts
        ]
        scores = self.rewards.score(items)
        seconds["generation"] += generated - started
        seconds["reward"] += time.perf_counter() - generated
        size = cfg.grpo.samples_per_question
        return [
            self._group(question, rollouts, scores[i * size : (i + 1) * size])
            for i, (question, rollouts) in enumerate(zip(questions, sampled, strict=True))
        ]

    def _group(self, question: Question, rollouts: list[Rollout], scores: list) -> Group:
        grpo, limit = self.cfg.grpo, self.cfg.rollout.max_new_tokens
        rewards = [
            score.reward + overlong_penalty(len(rollout.response_ids), limit, grpo.overlong_penalty_tokens)
            for rollout, score in zip(rollouts, scores, strict=True)
        ]
        weights = [0.0 if grpo.mask_truncated and rollout.truncated else 1.0 for rollout in rollouts]
        return Group(question, rollouts, scores, rewards, advantages(rewards, grpo), weights)
