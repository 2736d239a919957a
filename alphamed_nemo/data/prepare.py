"""From data sets to training and evaluation files: load, deduplicate, decontaminate, hold out, describe, write.

<out>/train.parquet               every training question that is left, in the order of `sources.train`
<out>/train/<name>.parquet        the same by set, for studies of single sets
<out>/evaluation/<name>.parquet   each evaluation set whole, so that its size is the published one, and what was held
                                  out of the training set of this name
<out>/set_aside.jsonl             rows that no question could be made of, and why
<out>/removed.jsonl               training questions removed, by which rule, and what they match
<out>/report.json                 all counts
<out>/statistics.json, .html      what the questions look like
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alphamed_nemo import user_code
from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.config.scrub import scrub
from alphamed_nemo.data.dedup import DedupSettings, Removal, decontaminate, deduplicate
from alphamed_nemo.data.holdout import Holdout, check_disjoint, hold_out
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.sources import Loaded, SourceConfig, SourcesConfig, load_source
from alphamed_nemo.data.statistics import describe, token_counter, write_statistics

log = logging.getLogger(__name__)


@dataclass
class SetReport:
    """What became of one set. Training sets: rows = outside + set aside + duplicates + leaks + heldout + questions."""

    name: str
    role: str  # train | evaluation
    origin: str
    rows: int
    outside: int  # rows of categories that were not asked for
    set_aside: dict[str, int]  # reason -> rows
    duplicates: dict[str, int]  # rule -> questions removed; in an evaluation set they are counted and kept
    leaks: dict[str, int]  # evaluation set, or set that questions are held out of -> training questions removed
    questions: int
    heldout: int = 0  # training questions that became an evaluation set of the same name
    published: int = 0  # questions that published results count; 0: not known
    evaluation_only: dict[str, int] = field(default_factory=dict)  # reason a training set has -> questions kept here


@dataclass
class PrepareReport:
    sets: list[SetReport] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def of(self, name: str, role: str) -> SetReport:
        return next(item for item in self.sets if (item.name, item.role) == (name, role))

    def of_role(self, role: str) -> list[SetReport]:
        return sorted((item for item in self.sets if item.role == role), key=lambda item: item.name)


def prepare(cfg: SourcesConfig, out: Path, seed: int = 1) -> PrepareReport:
    """Run the whole stage and write its files into `out`.

    Args:
        seed: `data.seed`, which draws the questions to hold out.

    Raises:
        ValueError: a source that cannot be read, too many unusable rows, no training question left, or held-out
            questions that cannot be kept apart from the others.
    """
    check(cfg)
    train = [load_source(name, source, False, cfg.max_unusable_share) for name, source in cfg.train.items()]
    tests = [load_source(name, source, True, cfg.max_unusable_share) for name, source in cfg.evaluation.items()]
    settings = dedup_settings(cfg)
    kept, duplicates, leaks = _clean(cfg, train, tests, settings)
    kept, holdouts, more_leaks = _hold_out(cfg, kept, seed, settings)
    leaks += more_leaks
    if train and not kept:
        raise ValueError(f"no training question of {', '.join(cfg.train)} is left after removing duplicates and leaks")
    repeats = {item.name: deduplicate(item.questions, settings)[1] for item in tests} if cfg.deduplicate else {}

    report = PrepareReport(settings=scrub(asdict(cfg)) | {"seed": seed})
    report.sets += [_train_report(item, kept, duplicates, leaks, holdouts) for item in train]
    report.sets += [
        _evaluation_report(item, cfg.evaluation[item.name].published, repeats.get(item.name, [])) for item in tests
    ]
    report.sets += [_holdout_report(item, train) for item in holdouts]

    evaluation = {item.name: item.questions for item in (*tests, *holdouts)}
    _write_questions(out, kept, train, evaluation)
    _write_lines(out / "set_aside.jsonl", [item for loaded in (*train, *tests) for item in loaded.set_aside])
    _write_lines(out / "removed.jsonl", [*duplicates, *leaks])
    write_text(out / "report.json", json.dumps(asdict(report), indent=2) + "\n")
    _write_statistics(cfg, out, kept, evaluation, report)
    return report


def dedup_settings(cfg: SourcesConfig) -> DedupSettings:
    """When two questions are alike, as the settings say."""
    return DedupSettings(cfg.near_jaccard, cfg.contained_share, cfg.contained_min_words)


def check(cfg: SourcesConfig) -> None:
    """Find what can be found before anything is read. Raises: ValueError."""
    if not cfg.train and not cfg.evaluation:
        raise ValueError("sources.train and sources.evaluation are both empty; name at least one data set")
    for group, sources in (("train", cfg.train), ("evaluation", cfg.evaluation)):
        for name, source in sources.items():
            if user_code.is_place(source.set):
                user_code.find(source.set, f"sources.{group}.{name}.set")
            for key in ("path", "ids"):
                if (path := getattr(source, key)) and not Path(path).exists():
                    raise ValueError(f"sources.{group}.{name}.{key}: {path} does not exist")
            if "/" in name or name.startswith("."):
                raise ValueError(f"sources.{group}.{name}: the name becomes a file name; use letters, digits, _ and -")
            _check_heldout(cfg, group, name, source)
    for key in ("max_unusable_share", "near_jaccard", "contained_share"):
        value = getattr(cfg, key)
        if not 0 <= value <= 1:
            raise ValueError(f"sources.{key} is {value}; expected a share from 0 to 1")


def _check_heldout(cfg: SourcesConfig, group: str, name: str, source: SourceConfig) -> None:
    key, value = f"sources.{group}.{name}.heldout", source.heldout
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{key}: found {value!r}, expected a share below 1, or a number of questions")
    if value > 1 and value != int(value):
        raise ValueError(f"{key}: found {value}, expected a share below 1, or a whole number of questions")
    if value and group == "evaluation":
        raise ValueError(f"{key}: an evaluation set is held out whole; leave it out, or move {name} to sources.train")
    if value and name in cfg.evaluation:
        raise ValueError(
            f"{key}: sources.evaluation has a {name} too; give one of the two another name, or drop heldout"
        )


def _clean(
    cfg: SourcesConfig, train: Sequence[Loaded], tests: Sequence[Loaded], settings: DedupSettings
) -> tuple[list[Question], list[Removal], list[Removal]]:
    kept = [question for item in train for question in item.questions]
    duplicates: list[Removal] = []
    leaks: list[Removal] = []
    if cfg.deduplicate:
        kept, duplicates = deduplicate(kept, settings)
        log.info("duplicates removed: %s", _counts(Counter(item.rule for item in duplicates)))
    if cfg.decontaminate and tests:
        kept, leaks = decontaminate(kept, (question for item in tests for question in item.questions), settings)
        found = _counts(Counter(item.match_dataset for item in leaks))
        log.info("leaks removed (also in an evaluation set): %s", found)
    return kept, duplicates, leaks


def _hold_out(
    cfg: SourcesConfig, kept: list[Question], seed: int, settings: DedupSettings
) -> tuple[list[Question], list[Holdout], list[Removal]]:
    """Training questions that are left, what was held out of them, and those of other sets that matched it."""
    holdouts = []
    for name, source in cfg.train.items():
        if source.heldout:
            questions = [question for question in kept if question.dataset == name]
            holdouts.append(hold_out(name, questions, source.heldout, seed, settings))
    drawn = [question for holdout in holdouts for question in holdout.questions]
    ids = {question.id for question in drawn}
    kept = [question for question in kept if question.id not in ids]
    leaks: list[Removal] = []
    if drawn and cfg.decontaminate:
        kept, leaks = decontaminate(kept, drawn, settings)
    check_disjoint(kept, holdouts, settings)
    for holdout in holdouts:
        log.info("held out %d questions of %s, seed %d", len(holdout.questions), holdout.name, seed)
    return kept, holdouts, leaks


def _train_report(
    item: Loaded,
    kept: Sequence[Question],
    duplicates: Sequence[Removal],
    leaks: Sequence[Removal],
    holdouts: Sequence[Holdout],
) -> SetReport:
    return SetReport(
        item.name,
        "train",
        item.origin,
        item.rows,
        item.outside,
        item.reasons,
        dict(Counter(removal.rule for removal in duplicates if removal.dataset == item.name)),
        dict(Counter(removal.match_dataset for removal in leaks if removal.dataset == item.name)),
        sum(question.dataset == item.name for question in kept),
        sum(len(holdout.questions) for holdout in holdouts if holdout.name == item.name),
    )


def _holdout_report(item: Holdout, train: Sequence[Loaded]) -> SetReport:
    origin = next(loaded.origin for loaded in train if loaded.name == item.name)
    count = len(item.questions)
    return SetReport(item.name, "evaluation", f"held out of {origin}", count, 0, {}, {}, {}, count)


def _evaluation_report(item: Loaded, published: int, repeats: Sequence[Removal]) -> SetReport:
    return SetReport(
        item.name,
        "evaluation",
        item.origin,
        item.rows,
        item.outside,
        item.reasons,
        dict(Counter(removal.rule for removal in repeats)),
        {},
        len(item.questions),
        published=published,
        evaluation_only=dict(item.evaluation_only),
    )


def _write_questions(
    out: Path, kept: Sequence[Question], train: Sequence[Loaded], evaluation: Mapping[str, Sequence[Question]]
) -> None:
    for folder in ("train", "evaluation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if train:
        write_questions(list(kept), out / "train.parquet")
    for item in train:
        questions = [question for question in kept if question.dataset == item.name]
        if questions:  # a set may hold nothing that another does not
            write_questions(questions, out / "train" / f"{item.name}.parquet")
    for name, questions in evaluation.items():
        write_questions(questions, out / "evaluation" / f"{name}.parquet")


def _write_lines(path: Path, items: Iterable) -> None:
    write_text(path, "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items))


def _write_statistics(
    cfg: SourcesConfig,
    out: Path,
    kept: Sequence[Question],
    evaluation: Mapping[str, Sequence[Question]],
    report: PrepareReport,
) -> None:
    count, unit = token_counter(cfg.tokenizer)
    groups = {name: [question for question in kept if question.dataset == name] for name in cfg.train}
    sets = [describe(name, "train", questions, count) for name, questions in groups.items() if questions]
    sets += [describe(name, "evaluation", questions, count) for name, questions in evaluation.items()]
    columns = ["set", "rows", "other categories", "set aside", "duplicates", "leaks", "held out", "questions"]
    columns += ["published", "kept for evaluation alone"]
    rows = [
        [f"{item.name} ({item.role})", item.rows, item.outside]
        + [_counts(counts) for counts in (item.set_aside, item.duplicates, item.leaks)]
        + [item.heldout, item.questions, item.published or "", _counts(item.evaluation_only)]
        for item in report.sets
    ]
    write_statistics(out, sets, unit, [("From rows to questions", columns, rows)])


def _counts(counts: dict[str, int]) -> str:
    return f"{sum(counts.values())} ({', '.join(f'{name}: {n}' for name, n in counts.items())})" if counts else "0"
