"""Subsets of labelled questions: the paper's balanced sets, its cumulative sets, and mixtures of data sets.

MedQA-Sub and its siblings hold 200 questions from each of six levels; the difficulty study trains on L1, L1–L2, …
L1–L6; the diversity study adds data sets to one another. Every draw is seeded, and its result is shuffled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from alphamed_nemo.config import LabelConfig
from alphamed_nemo.config.choices import Fill, Subset, names
from alphamed_nemo.data.difficulty import describe, histogram
from alphamed_nemo.data.question import Question

FILLS, SUBSETS = names(Fill), names(Subset)


def draw_subset(questions: Sequence[Question], cfg: LabelConfig, seed: int) -> list[Question]:
    """The subset that `label` describes, of questions labelled with `label.samples` samples.

    `balanced`: `per_level` questions of each level up to `up_to`. `by_dataset`: the same from each data set, joined, as
    in the diversity study. `mixture`: `mixture[name]` questions of each data set, whatever their level. `all`: all.

    Raises:
        ValueError: `subset` is unknown, or the questions do not hold what is asked for; gives the counts.
    """
    levels = cfg.samples + 1
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.dataset, []).append(question)
    if cfg.subset == "all":
        return list(questions)
    if cfg.subset == "mixture":
        return mixture(groups, cfg.mixture, seed)
    if cfg.subset == "balanced":
        groups = {"": list(questions)}
    elif cfg.subset != "by_dataset":
        raise ValueError(f"label.subset={cfg.subset!r} is unknown; choose one of {', '.join(SUBSETS)}")
    drawn: list[Question] = []
    for name, group in groups.items():
        try:
            drawn += balanced_subset(group, cfg.per_level, seed, cfg.fill, levels, cfg.up_to, cfg.first)
        except ValueError as error:
            raise ValueError(f"{name}: {error}" if name else str(error)) from error
    if len(groups) > 1:
        random.Random(f"subset-{seed}").shuffle(drawn)
    return drawn


def choose(questions: Sequence[Question], datasets: Sequence[str], per_dataset: int, seed: int) -> list[Question]:
    """The questions of `datasets` (empty: of all), at most `per_dataset` of each (0: all), in their order.

    A smaller draw is part of a larger one with the same seed, so that a labelling can be extended.

    Raises:
        ValueError: a data set has no questions; lists those that are there.
    """
    found = dict.fromkeys(question.dataset for question in questions)
    if unknown := [name for name in datasets if name not in found]:
        raise ValueError(f"label.datasets: no questions of {', '.join(unknown)}; there are {', '.join(found)}")
    chosen: set[str] = set()
    for name in datasets or found:
        ids = sorted(question.id for question in questions if question.dataset == name)
        random.Random(f"choose-{name}-{seed}").shuffle(ids)
        chosen.update(ids[: per_dataset or None])
    return [question for question in questions if question.id in chosen]


def balanced_subset(
    questions: Sequence[Question],
    per_level: int,
    seed: int,
    fill: str = "error",
    levels: int = 6,
    up_to: int = 0,
    first: int = 1,
) -> list[Question]:
    """`per_level` questions of every level, or of L`first`..L`up_to`: the difficulty study's sets.

    With the same seed and fill="error" the set up to L1 is part of the one up to L2, and so on.

    Where a level holds fewer, `fill` decides. "error" refuses. "neighbours" takes what the level has and makes up the
    rest from what the nearest levels have left, the harder one first where two are equally near (a question answered
    rightly every time gives no gradient); a question is taken once and keeps its own level, so `histogram` of the
    result shows what was done.

    Args:
        questions: labelled questions.
        per_level: questions a level. 0: as many as the smallest non-empty level holds, and empty levels stay empty.
        seed: which questions are drawn, and their order.
        fill: "error" or "neighbours".
        levels: number of levels, k + 1.
        up_to: the hardest level to draw from; 0: all.
        first: the easiest.

    Raises:
        ValueError: `fill`, `up_to` or `first` is unknown, a question has no level or one above `levels`, a level is
            short (fill=error), or there are too few in all (fill=neighbours). The message gives the histogram.
    """
    if not 0 <= up_to <= levels:
        raise ValueError(f"label.up_to={up_to} is no level; expected 1 to {levels}, or 0 for all")
    if not 1 <= first <= (up_to or levels):
        raise ValueError(f"label.first={first} is above the hardest level, L{up_to or levels}; lower it")
    wanted = dict.fromkeys(range(first, (up_to or levels) + 1), per_level)
    if per_level == 0:
        counts = histogram(questions, levels)
        smallest = min((counts[level] for level in wanted if counts[level]), default=0)
        wanted = {level: min(counts[level], smallest) for level in wanted}
    return _draw(questions, wanted, seed, fill, levels)


def mixture(sources: Mapping[str, Sequence[Question]], counts: Mapping[str, int], seed: int) -> list[Question]:
    """`counts[name]` questions drawn from each source, shuffled together; names and numbers are `label.mixture`.

    Raises:
        ValueError: a source is unknown or holds too few questions, or an id occurs twice.
    """
    if not counts:
        raise ValueError("label.mixture is empty; name data sets and how many questions of each")
    mixed: list[Question] = []
    for name, count in counts.items():
        if name not in sources:
            raise ValueError(f"mixture: no source {name!r}; there are {', '.join(sorted(sources))}")
        if not 0 <= count <= len(sources[name]):
            raise ValueError(f"mixture: {count} questions of {name} asked for; it has {len(sources[name])}")
        mixed += random.Random(f"mixture-{name}-{seed}").sample(list(sources[name]), count)
    if len({question.id for question in mixed}) < len(mixed):
        raise ValueError("mixture: question ids are not unique over the sources; give each data set ids of its own")
    random.Random(f"mixture-{seed}").shuffle(mixed)
    return mixed


def _draw(questions: Sequence[Question], wanted: dict[int, int], seed: int, fill: str, levels: int) -> list[Question]:
    """`wanted[level]` questions of each level, short levels filled by the rule, shuffled."""
    if fill not in FILLS:
        raise ValueError(f"label.fill={fill!r} is unknown; choose one of {', '.join(FILLS)}")
    counts = histogram(questions, levels)
    if len(counts) > levels:
        raise ValueError(f"questions have levels up to L{len(counts)}, expected at most L{levels}: {describe(counts)}")
    if any(count < 0 for count in wanted.values()):
        raise ValueError(f"label.per_level={min(wanted.values())} is negative")
    short = {level: count - counts[level] for level, count in wanted.items() if count > counts[level]}
    if short and fill == "error":
        raise ValueError(
            f"label.per_level: {describe(wanted)} asked for, but there are {describe(counts)}; lower label.per_level, "
            "label more questions, or set label.fill=neighbours"
        )
    pools = {level: [question for question in questions if question.level == level] for level in counts}
    for level, pool in pools.items():
        random.Random(f"subset-L{level}-{seed}").shuffle(pool)
    drawn: list[Question] = []
    for level, count in wanted.items():
        drawn += pools[level][:count]
        pools[level] = pools[level][count:]
    # Neighbours come from the levels that were asked for, so that a set up to L2 holds nothing harder.
    for level, missing in short.items():
        for neighbour in sorted(wanted, key=lambda other: (abs(other - level), -other)):
            take, pools[neighbour] = pools[neighbour][:missing], pools[neighbour][missing:]
            drawn += take
            missing -= len(take)
        if missing:
            raise ValueError(f"label.per_level: {describe(wanted)} asked for, but there are only {describe(counts)}")
    random.Random(f"subset-{seed}").shuffle(drawn)
    return drawn
