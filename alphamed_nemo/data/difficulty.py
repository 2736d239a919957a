"""Difficulty levels from how often the base model answers a question correctly.

The paper samples the base model several times on each question and calls the easiest level L1. The definition used
here (k and the sampling settings are not published): with k samples, level = k + 1 − (number correct). For k = 5, 5/5
correct is L1 and 0/5 is L6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import exp, lgamma

from alphamed_nemo.data.question import Question


def level_of(correct: int, samples: int) -> int:
    """The level of a question of whose `samples` answers `correct` were right: 1 (easiest) to `samples` + 1.

    Raises:
        ValueError: the counts are not 0 <= correct <= samples with samples >= 1.
    """
    if samples < 1 or not 0 <= correct <= samples:
        raise ValueError(
            f"level_of: {correct} correct of {samples} samples; expected 0 <= correct <= samples, samples >= 1"
        )
    return samples + 1 - correct


def expected_effective(correct: int, samples: int, group_size: int) -> float:
    """Probability that a group of responses to this question has unequal rewards, and so carries a gradient.

    From `correct` right answers of `samples`, with a uniform prior: the chance p of a right answer is
    Beta(1 + correct, 1 + samples − correct), and the result is 1 − E[p^group_size] − E[(1 − p)^group_size].
    """
    right, wrong = 1 + correct, 1 + samples - correct
    return 1 - _moment(right, wrong, group_size) - _moment(wrong, right, group_size)


def _moment(a: int, b: int, power: int) -> float:
    """E[x^power] of Beta(a, b)."""
    return exp(lgamma(a + power) + lgamma(a + b) - lgamma(a) - lgamma(a + b + power))


def with_levels(questions: Iterable[Question], correct: Mapping[str, int], samples: int) -> list[Question]:
    """The questions with their levels set, and the counts kept in `metadata["correct"]` and `["samples"]`.

    Args:
        questions: what was asked.
        correct: question id → number of right answers.
        samples: answers sampled for each question, k.

    Raises:
        ValueError: a question has no count.
    """
    labelled = []
    for question in questions:
        if question.id not in correct:
            raise ValueError(f"question {question.id} was not sampled: no count of right answers for it")
        count = correct[question.id]
        metadata = {**question.metadata, "correct": count, "samples": samples}
        labelled.append(replace(question, level=level_of(count, samples), metadata=metadata))
    return labelled


def are_labelled(questions: Iterable[Question], samples: int) -> bool:
    """Whether every question already has a level from as many samples."""
    return all(q.level is not None and q.metadata.get("samples") == samples for q in questions)


def histogram(questions: Iterable[Question], levels: int = 0) -> dict[int, int]:
    """Questions a level, in level order, empty levels included up to `levels` (0: up to the hardest one seen).

    Raises:
        ValueError: a question has no level.
    """
    counts: Counter[int] = Counter()
    for question in questions:
        if question.level is None:
            raise ValueError(f"question {question.id} has no difficulty level; run recipes/label_difficulty.py first")
        counts[question.level] += 1
    top = max([levels, *counts])
    return {level: counts[level] for level in range(1, top + 1)}


def describe(counts: Mapping[int, int]) -> str:
    """The histogram in a line: "L1 12, L2 40, …"."""
    return ", ".join(f"L{level} {count}" for level, count in sorted(counts.items()))
