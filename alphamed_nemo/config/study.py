"""Settings of recipes/study.py: what a study compares, and with how many seeds. Plain dataclasses, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from alphamed_nemo.config.choices import Study
from alphamed_nemo.config.ranges import RANGE, Range, ranged


@dataclass
class StudyConfig:
    """What a study compares. Everything else of its runs is as for any run."""

    name: Study = "quantity"
    seeds: int = ranged(3, low=1)  # runs of each variant: run.seed, run.seed + 1, …, which also draw the subsets
    sizes: list[int] = field(
        default_factory=lambda: [200, 400], metadata={RANGE: Range(1)}
    )  # quantity: questions per level of each variant
    per_level: int = ranged(200, low=1)  # diversity and difficulty: questions per level (of each source)
    sources: list[str] = field(
        default_factory=lambda: ["medqa", "medmcqa", "pubmedqa"]
    )  # diversity: they join one by one, in this order
    sources_by: str = ""  # what names a question's source: an entry of its metadata; empty: its data set
    bands: list[str] = field(
        default_factory=lambda: ["1", "1-2", "1-3", "1-4", "1-5", "1-6"]
    )  # difficulty: levels of each variant, one or a range
    same_size: bool = False  # diversity and difficulty: as many questions in every variant as in the smallest
    dry_run: bool = False  # print the commands of every run that is missing instead of running it
    slurm: str = ""  # submit what is missing as jobs of this size (slurm/sizes; tiny) instead of running it here
