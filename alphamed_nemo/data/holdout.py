"""Questions held out of a training source, so that one's own file can be trained on and evaluated on.

What is alike by the rules of `dedup.py` stays on one side: a near-duplicate in the training set would make the held-out
question a test of memory.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from alphamed_nemo.data.dedup import DedupSettings, Removal, decontaminate, group_alike
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.strata import proportional

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holdout:
    """What was drawn from one source, in the order of its rows.

    Attributes:
        asked: questions asked for.
        groups: groups of like questions that the drawn ones come from.
    """

    name: str
    questions: list[Question]
    asked: int
    groups: int


def hold_out(
    name: str, questions: Sequence[Question], wanted: float, seed: int, settings: DedupSettings, key: str = ""
) -> Holdout:
    """Draws whole groups of like questions until as many are held out as asked for; fewer where no group fits the rest.

    The draw follows from seed, name and ids, not from the order of the rows.

    Args:
        name: the source.
        questions: those left after duplicates and leaks were removed.
        wanted: a share of them below 1, or a number from 1 on.
        seed: `data.seed`.
        key: the setting that asks for them; empty: the source's own.

    Raises:
        ValueError: nothing would be left on one of the two sides.
    """
    key = key or f"sources.train.{name}.heldout"
    count = int(wanted) if wanted >= 1 else max(1, round(wanted * len(questions)))
    if count >= len(questions):
        raise ValueError(f"{key}: {wanted:g} asks for {count} of {len(questions)} questions; leave some to train on")
    groups = sorted(group_alike(questions, settings), key=lambda group: min(question.id for question in group))
    random.Random(f"heldout-{name}-{seed}").shuffle(groups)
    drawn: set[str] = set()
    used = 0
    for group in groups:
        if len(drawn) + len(group) <= count:
            drawn |= {question.id for question in group}
            used += 1
    if not drawn:
        raise ValueError(
            f"{key}: {count} asked for, and the smallest group of like questions has {min(map(len, groups))}; they "
            "cannot be on both sides: raise heldout, or take near-duplicates out of the file"
        )
    if len(drawn) < count:
        log.warning(
            "%s: held out %d rather than %d; larger groups of like questions stay whole", name, len(drawn), count
        )
    return Holdout(name, [question for question in questions if question.id in drawn], count, used)


def keep_for_validation(
    questions: Sequence[Question], size: int, seed: int, settings: DedupSettings
) -> tuple[list[Question], list[Question]]:
    """(questions to train on, questions to validate on): `size` of them, from each data set in proportion.

    Raises:
        ValueError: nothing would be left to train on.
    """
    sets: dict[str, list[Question]] = {}
    for question in questions:
        sets.setdefault(question.dataset, []).append(question)
    key = "data.validation_questions"
    if size >= len(questions):
        raise ValueError(f"{key}: found {size} of {len(questions)} questions; leave some to train on")
    counts = proportional({name: len(group) for name, group in sets.items()}, size)
    drawn = {
        question.id
        for name, count in counts.items()
        if count
        for question in hold_out(name, sets[name], count, seed, settings, key).questions
    }
    validation = [question for question in questions if question.id in drawn]
    rest = [question for question in questions if question.id not in drawn]
    train, removed = decontaminate(rest, validation, settings)
    log.info("%d questions kept for validation; %d like them removed from training", len(validation), len(removed))
    return train, validation


def check_disjoint(train: Sequence[Question], holdouts: Sequence[Holdout], settings: DedupSettings) -> None:
    """Refuses a training question that matches a held-out one by any rule. Raises: ValueError."""
    heldout = [question for holdout in holdouts for question in holdout.questions]
    overlap: list[Removal] = decontaminate(train, heldout, settings)[1] if heldout else []
    if overlap:
        first = overlap[0]
        raise ValueError(
            f"sources.train: {len(overlap)} training questions match held-out ones; first: {first.id} of "
            f"{first.dataset} and {first.match} of {first.match_dataset} ({first.rule}). Set "
            "sources.decontaminate=true, which removes them from training"
        )
