r"""A length reward: the shorter of two right answers is worth more. A wrong one gets nothing, however short.

    ./run train_grpo experiment=tiny reward.functions=[correct,examples/length_reward.py:length_reward] \
        reward.weights=[1.0,0.1]

A question may say how long its answer should be, as `words` in its metadata. `length_reward_by_level` gives harder
questions more room.
"""

from __future__ import annotations

from alphamed_nemo.answers.options import choices_of
from alphamed_nemo.answers.protocols import extractor
from alphamed_nemo.data.question import Question

WORDS = 200  # at and above this a right answer gets nothing extra
WORDS_PER_LEVEL = 100  # 100 for L1, the easiest, 600 for L6


def length_reward(response: str, question: Question, metadata: dict) -> float:
    """1 for no words at all, falling to 0 at the limit, where the answer is right; else 0."""
    answer = extractor("boxed")(response, choices_of(question.options))
    if answer != question.answer:
        return 0.0
    limit = metadata.get("words", WORDS)
    return max(0.0, 1 - len(response.split()) / limit)


def length_reward_by_level(response: str, question: Question, metadata: dict) -> float:
    """As `length_reward`, with as much room as the question is hard for the base model; WORDS before labelling."""
    words = WORDS if question.level is None else WORDS_PER_LEVEL * question.level
    return length_reward(response, question, {"words": words} | metadata)
