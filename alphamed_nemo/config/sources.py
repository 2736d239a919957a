"""Settings of recipes/prepare_data.py: which data sets, from where, and what is removed from them.

Plain dataclasses, importable without `datasets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from alphamed_nemo.config.ranges import ranged


@dataclass
class SourceConfig:
    """One data set. Its key in `SourcesConfig.train` or `.evaluation` is the name its questions carry."""

    set: str = ""  # loader: alphamed_nemo.data.sources.LOADERS, or your own file.py:Class; empty: the key itself
    path: str = ""  # the authors' file, or a folder of such files; empty: read from the hub
    hub: str = ""  # hub repository, or a local folder laid out like one; empty: the loader's own
    subset: str = ""  # hub configuration (`pqa_labeled`, `gpqa_main`); empty: the loader's own
    split: str = ""  # hub split; empty: the loader's own for training or evaluation
    revision: str = ""  # hub commit or tag; empty: the newest
    heldout: float = ranged(0.0, low=0)  # of a training set, to evaluate on: a share below 1, a number from 1 on
    rows: int = ranged(0, low=0)  # read the first rows only, for trying things; 0: all
    contexts: bool = True  # PubMedQA: give the abstract with the question
    categories: list[str] = field(default_factory=list)  # MMLU-Pro categories, GPQA domains; empty: the medical ones
    where: dict[str, list[str]] = field(default_factory=dict)  # column: values; only rows that have one of these
    ids: str = ""  # JSON file, a list of ids or an object by id; only questions that it names
    published: int = ranged(0, low=0)  # questions that published results count; 0: not known
    option_seed: int = ranged(1, low=0)  # GPQA: order of the options
    cop_base: int | None = ranged(None, low=0, high=1)  # MedMCQA: what `cop` counts from; None: told by values


@dataclass
class SourcesConfig:
    """From data sets to training and evaluation files."""

    train: dict[str, SourceConfig] = field(default_factory=dict)
    evaluation: dict[str, SourceConfig] = field(default_factory=dict)
    out: str = ""  # folder of the files; empty: <run>/data/prepared
    max_unusable_share: float = ranged(0.02, low=0, high=1)  # of a set's rows that may be set aside before it fails
    deduplicate: bool = True  # within and between the training sets
    decontaminate: bool = True  # training questions against every evaluation set
    near_jaccard: float = ranged(0.8, low=0, high=1, above=True)  # word 3-grams of two questions; duplicates from here
    contained_share: float = ranged(0.5, low=0, high=1)  # word 8-grams of the shorter text in the other; above: a leak
    contained_min_words: int = ranged(25, low=1)  # texts shorter than this are not tested for containment
    tokenizer: str = ""  # Hugging Face folder for lengths in the statistics; empty: words and punctuation marks

    def __post_init__(self) -> None:
        for group in ("train", "evaluation"):
            sources = (getattr(self, group) or {}).items()
            setattr(self, group, {name: _source(f"{group}.{name}", value) for name, value in sources})


def _source(key: str, value: SourceConfig | dict) -> SourceConfig:
    """Raises: ValueError: a key that `SourceConfig` does not have."""
    if isinstance(value, SourceConfig):
        return value
    known = [item.name for item in fields(SourceConfig)]
    unknown = sorted(set(value or {}) - set(known))
    if unknown:
        raise ValueError(f"sources.{key}: unknown key {unknown[0]!r}; a source has {', '.join(known)}")
    return SourceConfig(**(value or {}))
