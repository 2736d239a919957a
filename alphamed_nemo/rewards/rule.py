"""The reward: 1 where the final answer is the key, 0 where it is not.

AlphaMed (arXiv 2505.17952) rewards nothing else: no format, no length, no chain of thought.
"""

from __future__ import annotations

from collections.abc import Iterable

from alphamed_nemo.answers.options import choices_of
from alphamed_nemo.answers.protocols import extractor
from alphamed_nemo.config import RewardConfig
from alphamed_nemo.rewards.score import CORRECT, NO_ANSWER, WRONG, RewardItem, Score


def score_all(
    items: Iterable[RewardItem], protocol: str = "boxed", max_chars: int = RewardConfig.max_response_chars
) -> list[Score]:
    """Scores of items that `check_item` accepts, in their order.

    A response of more than `max_chars` characters is not read: it states no answer.
    """
    extract = extractor(protocol)
    scores = []
    for item in items:
        readable = len(item.response) <= max_chars
        answer = extract(item.response, choices_of(item.options or item.letters)) if readable else None
        if answer is None:
            scores.append(Score(0.0, None, NO_ANSWER))
        elif answer == item.answer:
            scores.append(Score(1.0, answer, CORRECT))
        else:
            scores.append(Score(0.0, answer, WRONG))
    return scores


def score(item: RewardItem, protocol: str = "boxed") -> Score:
    """Score of one response."""
    return score_all((item,), protocol)[0]
