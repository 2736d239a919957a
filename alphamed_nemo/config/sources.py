"""Settings of recipes/prepare_data.py: which data sets, from where, and what is removed from them.

Plain dataclasses, importable without `datasets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass
class SourceConfig:
    """One data set. Its key in `SourcesConfig.train` or `.evaluation` is the name its questions carry."""

    set: str = ""  # loader: alphamed_nemo.data.sources.LOADERS, or your own file.py:Class; empty: the key itself
    path: str = ""  # the authors' file, or a folder of such files; empty: read from the hub
    hub: str = ""  # hub repository, or a local folder laid out like one; empty: the loader's own
    subset: str = ""  # hub configuration (`pqa_labeled`, `gpqa_main`); empty: the loader's own
    split: str = ""  # hub split; empty: the loader's own for training or evaluation
    revision: str = ""  # hub commit or tag; empty: the newest
    heldout: float = 0.0  # of a training set: questions to evaluate on instead; a share below 1, a number from 1 on
    rows: int = 0  # read the first rows only, for trying things; 0: all
    contexts: bool = True  # PubMedQA: give the abstract with the question
    categories: list[str] = field(default_factory=list)  # MMLU-Pro categories, GPQA domains; empty: the medical ones
    option_seed: int = 1  # GPQA: order of the options
    cop_base: int | None = None  # MedMCQA: what `cop` counts from, 0 or 1; None: told by the schema and the values


@dataclass
class SourcesConfig:
    """From data sets to training and evaluation files."""

    train: dict[str, SourceConfig] = field(default_factory=dict)
    evaluation: dict[str, SourceConfig] = field(default_factory=dict)
    out: str = ""  # folder of the files; empty: <run>/data/prepared
    max_unusable_share: float = 0.02  # share of a set's rows that may be set aside; above it the stage fails
    deduplicate: bool = True  # within and between the training sets
    decontaminate: bool = True  # training questions against every evaluation set
    near_jaccard: float = 0.8  # word 3-grams of stem and options; at and above it two questions are near-duplicates
    contained_share: float = 0.5  # word 8-grams of the shorter text found in the other; above it a question leaks
    contained_min_words: int = 25  # texts shorter than this are not tested for containment
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
