"""How often a run passes over its questions: steps × questions per step, over the questions that it trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.strata import proportional

# Training questions of the published sets, before duplicates and leaks are removed: (set, subset) → questions.
PUBLISHED = {
    ("medqa", ""): 10_178,
    ("medmcqa", ""): 182_822,
    ("pubmedqa", ""): 1_000,  # PQA-L
    ("pubmedqa", "pqa_artificial"): 211_269,
    ("alphamed19k", ""): 19_178,
}


@dataclass(frozen=True)
class Passes:
    """Passes of a whole run.

    Attributes:
        asked: questions that all steps together take, repeats included.
        questions: those of the training file; at most so many where `source` says that.
        source: where their number comes from, for a reader.
    """

    asked: int
    questions: int
    source: str

    @property
    def count(self) -> float:
        return self.asked / self.questions


def count_passes(cfg: Config) -> Passes | None:
    """From the training file, or before there is one from what `label` will draw of the published sets.

    Returns:
        None where that is not known in advance: `label.per_level=0` takes what the smallest level holds, and only its
        file tells the size of a set of one's own.
    """
    asked = cfg.grpo.steps * cfg.grpo.questions_per_step
    folder = RunFolder.of(cfg)
    path = Path(cfg.grpo.questions or folder.subset)
    if path.is_file():
        questions = len(read_questions(path))
        return Passes(asked, questions, f"of {path}") if questions else None
    whole = path == Path(cfg.data.train or folder.train)  # trained on as prepared, without levels
    drawn = prepared_questions(cfg) if whole else subset_questions(cfg)
    if drawn is None:
        return None
    return Passes(asked, drawn, "at most, as prepared" if whole else f"at most, label.subset={cfg.label.subset}")


def subset_questions(cfg: Config) -> int | None:
    """Questions that label_difficulty draws, at most; None: not known in advance."""
    label = cfg.label
    if label.subset == "mixture":
        return sum(label.mixture.values()) or None
    labelled = labelled_by_set(cfg)
    if labelled is None:
        return None
    if label.subset == "all":
        return sum(labelled)
    wanted = label.per_level * ((label.up_to or label.samples + 1) - label.first + 1)
    if wanted == 0:
        return None
    if label.subset == "by_dataset":
        return sum(min(count, wanted) for count in labelled)
    return min(sum(labelled), wanted)


def labelled_questions(cfg: Config) -> int | None:
    """Questions that label_difficulty asks, at most; None: not known in advance."""
    labelled = labelled_by_set(cfg)
    return None if labelled is None else sum(labelled)


def labelled_by_set(cfg: Config) -> list[int] | None:
    """Questions of each set that are labelled, at most; None: not known in advance."""
    label = cfg.label
    available = {name: count for name, count in set_sizes(cfg).items() if not label.datasets or name in label.datasets}
    known = [count for count in available.values() if count is not None]
    if not available or len(known) < len(available):
        return None
    return [min(count, label.per_dataset or count) for count in known]


def prepared_questions(cfg: Config) -> int | None:
    """Training questions that prepare_data writes, at most; None: not known in advance."""
    sizes = set_sizes(cfg).values()
    known = [size for size in sizes if size is not None]
    return None if not sizes or len(known) < len(sizes) else sum(known)


def set_sizes(cfg: Config) -> dict[str, int | None]:
    """Questions of each training set by its name, without those that are kept for validation; None: a set of one's
    own."""
    if cfg.data.source == "clinic":
        return {"clinic": cfg.data.train_questions}  # those of a validation are drawn beside them
    sizes: dict[str, int | None] = {}
    if cfg.data.source == "medical_bank":
        sizes = {"medical_bank": len(medical_bank()[0])}
    else:
        for name, source in cfg.sources.train.items():
            size = PUBLISHED.get((source.set or name, source.subset))
            sizes[name] = min(size, source.rows or size) if size else source.rows or None
    known = {name: size for name, size in sizes.items() if size is not None}
    if len(known) < len(sizes):
        return sizes
    kept = proportional(known, min(cfg.data.validation_questions, sum(known.values())))
    return {name: size - kept[name] for name, size in known.items()}
