"""A group: one question, its rollouts, their scores and their advantages."""

from __future__ import annotations

from dataclasses import dataclass, field

from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.advantages import is_effective
from alphamed_nemo.policy.packing import TrainSequence
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout


@dataclass
class Group:
    """The G rollouts of one question.

    Attributes:
        question: what was asked.
        rollouts: length G.
        scores: length G, `scores[i]` belongs to `rollouts[i]`; `reward` is the rule's 0 or 1.
        rewards: length G, what the advantages are made from: the rule's reward plus shaping terms.
        advantages: length G, filled once the group is complete.
        weights: length G, 0 takes a rollout out of the loss (masked truncation), else 1.
    """

    question: Question
    rollouts: list[Rollout]
    scores: list[Score]
    rewards: list[float]
    advantages: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    @property
    def effective(self) -> bool:
        """Whether the rewards differ, so that the group has a gradient."""
        return is_effective(self.rewards)

    def sequences(self) -> list[TrainSequence]:
        """The rollouts as sequences to train on, in order, without those whose weight is 0."""
        return [
            TrainSequence(rollout.prompt_ids, rollout.response_ids, advantage, rollout.logprobs)
            for rollout, advantage, weight in zip(self.rollouts, self.advantages, self.weights, strict=True)
            if weight > 0
        ]
