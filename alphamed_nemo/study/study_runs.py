"""The runs of a study: each variant with each seed, the settings of each, and what of it is there already.

runs/<study>/                                the study: questions, labels, the base model's evaluation, the page
runs/<study>/<variant>-seed<n>/              one run, as any other
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.files import known_settings, load_config
from alphamed_nemo.config.limits import setting
from alphamed_nemo.config.resuming import PLACES, on_resume
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.subsets import choose, draw_subset
from alphamed_nemo.study.variants import Variant

TRAINED = "trained"  # label of the evaluation that ends a run
GROUPS = ("data", "label", "optim", "evaluate")  # besides what a resume refuses: they decide what is compared
OWN = ("data.train", "data.heldout", "data.validation", "label.questions", "evaluate.model", "evaluate.label")
SHARED = ("data", "label", "model.path", "run.seed")  # of the study itself: what its runs have in common


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        variant: what it is trained on.
        seed: its `run.seed` and `data.seed`.
        cfg: all of its settings.
    """

    variant: Variant
    seed: int
    cfg: Config

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.cfg)

    @property
    def result(self) -> Path:
        """The evaluation that ends the run."""
        return self.folder.eval / f"{TRAINED}.json"

    @property
    def is_finished(self) -> bool:
        return self.result.is_file()


def pool_of(cfg: Config) -> Path:
    """The labelled questions from which every subset is drawn, by source."""
    folder = RunFolder.of(cfg)
    return folder.labelled.with_name("by_source.jsonl") if cfg.study.sources_by else folder.labelled


def runs_of(cfg: Config, variants: Sequence[Variant]) -> list[StudyRun]:
    """Every variant with one seed, then with the next: a study that is stopped has compared all of them."""
    seeds = range(cfg.run.seed, cfg.run.seed + cfg.study.seeds)
    return [StudyRun(variant, seed, run_config(cfg, variant, seed)) for seed in seeds for variant in variants]


def run_config(cfg: Config, variant: Variant, seed: int) -> Config:
    """The settings of one run; the questions that it does not train on, and all else, are the study's."""
    cfg = copy.deepcopy(cfg)
    run = replace(cfg.run, dir=str(RunFolder.of(cfg).root), name=f"{variant.folder}-seed{seed}", seed=seed)
    label = replace(cfg.label, **{**variant.label, "questions": str(pool_of(cfg)), "per_dataset": 0})
    own = RunFolder(Path(run.dir) / run.name)
    return replace(
        cfg,
        run=run,
        data=replace(cfg.data, seed=seed),
        label=label,
        grpo=replace(cfg.grpo, questions=str(own.subset)),
        export=replace(cfg.export, checkpoint="", out=str(own.hf)),
        evaluate=replace(cfg.evaluate, model=str(own.hf), label=TRAINED),
    )


def draw(run: StudyRun, pool: Sequence[Question]) -> list[Question]:
    """The run's subset, as label_difficulty draws it.

    Raises:
        ValueError: the pool does not hold what the variant asks for; names the variant.
    """
    try:
        return draw_subset(choose(pool, run.cfg.label.datasets, 0, run.seed), run.cfg.label, run.seed)
    except ValueError as error:
        raise ValueError(f"{run.variant.name}, seed {run.seed}: {error}") from error


def check_draws(runs: Sequence[StudyRun], cfg: Config) -> None:
    """Draws every subset once, so that one that cannot be drawn is known before hours of others."""
    pool = read_questions(pool_of(cfg))
    for run in runs:
        draw(run, pool)


def check_earlier(cfg: Config, runs: Sequence[StudyRun]) -> None:
    """Refuses to go on with a study of other settings in the same folder. Variants and seeds may be added.

    Raises:
        ValueError: names the run, the setting and both values.
    """
    own = RunFolder.of(cfg).config
    pairs = [(own, cfg, list(shared_settings()))] if own.is_file() else []
    pairs += [(run.folder.config, run.cfg, list(compared_settings())) for run in runs if run.folder.config.is_file()]
    for path, now, names in pairs:
        before = load_config(path)
        for name in names:
            found: tuple[Any, Any] = (setting(before, name), setting(now, name))
            if found[0] != found[1]:
                raise ValueError(
                    f"{name}: {path.parent} was begun with {found[0]!r}, and this is {found[1]!r}; restore what it "
                    "was, set another run.name, or remove that folder"
                )


def compared_settings() -> Iterator[str]:
    """Settings that every start of one run has to have in common."""
    for name, *_ in known_settings():
        decides = on_resume(name) == "refused" or name.partition(".")[0] in GROUPS or name == "grpo.steps"
        if decides and name not in PLACES and name not in OWN:
            yield name


def shared_settings() -> Iterator[str]:
    """Settings of the study's own folder that decide which questions there are, and their levels."""
    return (
        name
        for name, *_ in known_settings()
        if (name in SHARED or name.partition(".")[0] in SHARED) and name not in OWN
    )
