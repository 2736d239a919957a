"""A part of a question list with the same mixture as the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from alphamed_nemo.data.question import Question

T = TypeVar("T", bound=Hashable)


def stratified(questions: Sequence[Question], size: int, seed: int) -> list[Question]:
    """`size` of the questions, in proportion to data sets and difficulty levels, in their order.

    A question's place in the draw depends on the seed and its id alone, so that the order of the file does not matter.

    Args:
        size: how many; all where there are no more, or where it is 0.
        seed: `data.seed`.
    """
    if size == 0 or size >= len(questions):
        return list(questions)
    strata: dict[Hashable, list[Question]] = {}
    for question in questions:
        strata.setdefault((question.dataset, question.level), []).append(question)
    wanted = proportional({name: len(group) for name, group in strata.items()}, size)
    drawn: set[str] = set()
    for name, group in strata.items():
        order = sorted(group, key=lambda question: hashlib.sha256(f"{seed}/{question.id}".encode()).digest())
        drawn |= {question.id for question in order[: wanted[name]]}
    return [question for question in questions if question.id in drawn]


def proportional(counts: Mapping[T, int], size: int) -> dict[T, int]:
    """`size` divided in proportion to counts, which sum to at least as many: whole shares first, then one more to those
    with the largest remainders (Hamilton's method)."""
    total = sum(counts.values())
    shares = {name: size * count // total for name, count in counts.items()}
    remainders = sorted(counts, key=lambda name: (-(size * counts[name] % total), str(name)))
    for name in remainders[: size - sum(shares.values())]:
        shares[name] += 1
    return shares
