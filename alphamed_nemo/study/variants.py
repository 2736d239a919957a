"""What a study compares: subsets of one set of labelled questions, each described by settings of `label`.

The paper's three: more questions (quantity), more data sets (diversity), harder questions (difficulty).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import Study
from alphamed_nemo.data.question import Question

BAND = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Variant:
    """One subset to train on.

    Attributes:
        name: as the page shows it.
        folder: beginning of the names of its run folders.
        questions: how many are asked for.
        label: settings of `label` that draw it.
    """

    name: str
    folder: str
    questions: int
    label: dict[str, Any] = field(hash=False)


def variants_of(cfg: Config) -> list[Variant]:
    """The variants of `study`, in the order of the page.

    Raises:
        ValueError: a setting cannot work; one line with the key, what was found and what was expected.
    """
    variants = MAKERS[cfg.study.name](cfg)
    key = f"study.{KEYS[cfg.study.name]}"
    if len(variants) < 2:
        raise ValueError(f"{key}: found {len(variants)} variant, expected two or more to compare")
    repeated = [name for name, count in Counter(variant.name for variant in variants).items() if count > 1]
    if repeated:
        raise ValueError(f"{key}: {repeated[0]} occurs twice; name each variant once")
    for variant in variants:
        if variant.questions < cfg.grpo.questions_per_step:
            raise ValueError(
                f"{key}: {variant.name} has {variant.questions} questions, fewer than grpo.questions_per_step="
                f"{cfg.grpo.questions_per_step}, so that a batch would ask some twice; lower it, or take more questions"
            )
    return variants


def quantity(cfg: Config) -> list[Variant]:
    """Balanced sets of different sizes; a smaller one is part of a larger one where no level is short."""
    levels = _levels(cfg)
    return [
        Variant(f"{size * levels:,} questions", f"questions_{size * levels}", size * levels, _balanced(size))
        for size in cfg.study.sizes
    ]


def diversity(cfg: Config) -> list[Variant]:
    """Sources that join one by one, as in the paper: MedQA, + MedMCQA, + PubMedQA."""
    wanted, levels = cfg.study, _levels(cfg)
    counts = range(1, len(wanted.sources) + 1)
    variants = []
    for count, last in zip(counts, wanted.sources, strict=True):
        size = _shared(wanted.per_level, count, counts) if wanted.same_size else wanted.per_level
        label = {"subset": "by_dataset", "per_level": size, "datasets": wanted.sources[:count]}
        name = last if count == 1 else f"+ {last}"
        variants.append(Variant(name, f"sources_{count}", size * levels * count, label))
    return variants


def difficulty(cfg: Config) -> list[Variant]:
    """Bands of levels; the paper's grow from L1 to L1–L6."""
    bands, wanted = [_band(text, cfg.label.samples + 1) for text in cfg.study.bands], cfg.study
    widths = [last - first + 1 for first, last in bands]
    variants = []
    for (first, last), width in zip(bands, widths, strict=True):
        size = _shared(wanted.per_level * min(widths), width, widths) if wanted.same_size else wanted.per_level
        name = f"L{first}" if first == last else f"L{first}–L{last}"
        label = {**_balanced(size), "first": first, "up_to": last}
        variants.append(Variant(name, f"levels_{first}-{last}", size * width, label))
    return variants


MAKERS: dict[Study, Callable[[Config], list[Variant]]] = {
    "quantity": quantity,
    "diversity": diversity,
    "difficulty": difficulty,
}
KEYS: dict[Study, str] = {"quantity": "sizes", "diversity": "sources", "difficulty": "bands"}  # of `study`


def _levels(cfg: Config) -> int:
    """How many levels a balanced set draws from."""
    return (cfg.label.up_to or cfg.label.samples + 1) - cfg.label.first + 1


def _balanced(per_level: int) -> dict[str, Any]:
    return {"subset": "balanced", "per_level": per_level}


def _shared(total: int, parts: int, all_parts: Sequence[int]) -> int:
    """`total` divided by one of the numbers of parts that it has to be divided by."""
    if any(total % each for each in all_parts):
        raise ValueError(
            f"study.per_level: study.same_size divides {total} questions by "
            f"{', '.join(map(str, sorted(set(all_parts))))}; take a multiple of {math.lcm(*all_parts)}"
        )
    return total // parts


def _band(text: str, levels: int) -> tuple[int, int]:
    found = BAND.fullmatch(text.strip())
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if not 1 <= first <= last <= levels:
        raise ValueError(f"study.bands: found {text!r}, expected a level or a range of 1 to {levels}, such as 1-3")
    return first, last


def by_source(questions: Sequence[Question], key: str) -> list[Question]:
    """The questions with the entry `key` of their metadata in the place of their data set's name.

    Raises:
        ValueError: a question has no such entry; names those that it has.
    """
    without = next((question for question in questions if key not in question.metadata), None)
    if without is not None:
        raise ValueError(
            f"study.sources_by: question {without.id} has no {key!r} in its metadata; it has "
            f"{', '.join(sorted(without.metadata)) or 'none'}"
        )
    return [replace(question, dataset=str(question.metadata[key])) for question in questions]


def check_questions(cfg: Config, variants: Sequence[Variant], questions: Sequence[Question]) -> None:
    """Whether there are enough questions, before any of them is labelled.

    Args:
        cfg: the study.
        variants: of the study.
        questions: to be labelled, by source.

    Raises:
        ValueError: a source is unknown, or a variant asks for more questions than there are.
    """
    counts = Counter(question.dataset for question in questions)
    key = f"study.{KEYS[cfg.study.name]}"
    for variant in variants:
        names = variant.label.get("datasets") or cfg.label.datasets or list(counts)
        if unknown := [name for name in names if name not in counts]:
            raise ValueError(f"{key}: no questions of {', '.join(unknown)}; there are {', '.join(sorted(counts))}")
        if variant.label["subset"] == "by_dataset":
            each = variant.questions // len(names)
            short = {name: counts[name] for name in names if counts[name] < each}
            asked = f"{each} questions of each source"
        else:
            there = sum(counts[name] for name in names)
            short = {"the training file": there} if there < variant.questions else {}
            asked = f"{variant.questions} questions"
        if short:
            found = ", ".join(f"{name} has {count}" for name, count in short.items())
            raise ValueError(f"{key}: {variant.name}: {asked} wanted, but {found}; ask for fewer, or prepare more")
