"""Questions → prompts → rollouts → scores → groups with advantages. Rank 0 only; everything is plain Python data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.data.prompts import encode_prompts
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.advantages import advantages
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.overlong import overlong_penalty
from alphamed_nemo.grpo.question_pools import EASY, HARD, QuestionPools
from alphamed_nemo.grpo.question_stream import QuestionStream
from alphamed_nemo.grpo.scoring import Scoring
from alphamed_nemo.rewards.functions import needs_question
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardItem, Score
from alphamed_nemo.rollout.pool import RolloutPool
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
        dropped: groups that were sampled and are not trained on: those that dynamic sampling replaced, and more
            effective ones than the batch needs, whose questions are asked again.
        by_level: difficulty level → groups sampled and how many of those were effective; questions without a level
            are not in it.
        rounds: sampling rounds.
        seconds: until the last response of each round was there (`generation`), and from then until all were scored
            (`reward`).
        servers: rollout servers that serve once it is sampled; fewer than it began with where some were lost.
        stream: state of the question order after this batch, for the checkpoint.
    """

    groups: list[Group]
    asked: int
    asked_effective: int
    rounds: int
    seconds: dict[str, float]
    servers: int = 1
    stream: dict = field(default_factory=dict)
    by_level: dict[int, tuple[int, int]] = field(default_factory=dict)
    dropped: list[Group] = field(default_factory=list)


def request_seed(seed: int, step: int, number: int) -> int:
    """A seed of its own for every sampling round of every step, below 2³¹ as vLLM wants it."""
    return (seed * 1_000_003 + step * 10_007 + number) % 2**31


def complete_group(
    question: Question, rollouts: list[Rollout], scores: list[Score], grpo: GrpoConfig, limit: int
) -> Group:
    """A group with what is trained on: shaped rewards, advantages, and which responses count.

    Args:
        limit: `rollout.max_new_tokens`.
    """
    rewards = [
        score.reward + overlong_penalty(len(rollout.response_ids), limit, grpo.overlong_penalty_tokens)
        for rollout, score in zip(rollouts, scores, strict=True)
    ]
    weights = [0.0 if grpo.mask_truncated and rollout.truncated else 1.0 for rollout in rollouts]
    return Group(question, rollouts, scores, rewards, advantages(rewards, grpo), weights)


def question_order(questions: list[Question], seed: int, grpo: GrpoConfig) -> QuestionStream | QuestionPools:
    """The order in which `grpo.curriculum` asks the questions."""
    if grpo.curriculum == "pools":
        return QuestionPools(questions, seed, {EASY: grpo.pool_easy, HARD: grpo.pool_hard})
    return QuestionStream(questions, seed, grpo.curriculum)


class Collector:
    """Fills one batch of groups a step from the rollout servers and the reward server."""

    def __init__(
        self,
        cfg: Config,
        stream: QuestionStream | QuestionPools,
        tokenizer,
        rollouts: RolloutPool,
        rewards: RewardClient,
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
            return self._collect(step)
        except BaseException:
            self.stream.restore(before)
            raise

    def _collect(self, step: int) -> Collected:
        grpo = self.cfg.grpo
        kept: list[Group] = []
        dropped: list[Group] = []
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
            self.stream.judge(groups)
            rounds += 1
            asked += len(groups)
            for group in groups:
                if (level := group.question.level) is not None:
                    sampled, uneven = by_level.get(level, (0, 0))
                    by_level[level] = (sampled + 1, uneven + group.effective)
            survivors = [group for group in groups if group.effective]
            effective += len(survivors)
            if grpo.dynamic_sampling:
                dropped += [group for group in groups if not group.effective]
            kept += survivors if grpo.dynamic_sampling else groups
        surplus = kept[grpo.questions_per_step :]
        self.stream.put_back([group.question for group in surplus])
        groups = kept[: grpo.questions_per_step]
        servers = len(self.rollouts.serving)
        state = self.stream.state()
        return Collected(groups, asked, effective, rounds, seconds, servers, state, by_level, dropped + surplus)

    def _round(self, questions: list[Question], step: int, number: int, seconds: dict[str, float]) -> list[Group]:
        """A group for each question. Responses are scored while others are sampled."""
        cfg = self.cfg
        prompts = encode_prompts(questions, self.tokenizer, cfg.data)
        sampled: dict[int, list[Rollout]] = {}
        started = time.perf_counter()
        with Scoring(self.rewards) as scoring:
            for index, rollouts in self.rollouts.stream(
                prompts,
                n=cfg.grpo.samples_per_question,
                temperature=cfg.rollout.temperature,
                top_p=cfg.rollout.top_p,
                max_new_tokens=cfg.rollout.max_new_tokens,
                seed=request_seed(cfg.run.seed, step, number),
            ):
                sampled[index] = rollouts
                scoring.add(index, self._items(questions[index], prompts[index], rollouts))
            generated = time.perf_counter()
            scores = scoring.scores()
        seconds["generation"] += generated - started
        seconds["reward"] += time.perf_counter() - generated
        limit = cfg.rollout.max_new_tokens
        return [
            complete_group(question, sampled[i], scores[i], cfg.grpo, limit) for i, question in enumerate(questions)
        ]

    def _items(self, question: Question, prompt: list[int], rollouts: list[Rollout]) -> list[RewardItem]:
        asked = needs_question(self.cfg.reward)
        text = self.tokenizer.decode(prompt) if asked else ""
        given = question if asked else None
        return [
            RewardItem(rollout.text, question.answer, question.options, prompt=text, question=given)
            for rollout in rollouts
        ]
