"""A study's folder with the evaluations of invented runs; no model was trained for them."""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.study.study_runs import StudyRun, draw, runs_of
from alphamed_nemo.study.variants import Variant, variants_of

HELD_OUT = 200
KINDS = ("disease", "drug", "enzyme", "effect")
SETTINGS = {"protocol": "boxed", "samples": 1, "model": "base"}


def study_config(root: Path, *overrides: str) -> Config:
    """The settings of conf/study.yaml in a folder of one's own."""
    cfg = copy.deepcopy(_composed(overrides))
    cfg.run.dir = str(root)
    return fill_derived(cfg)


@cache
def _composed(overrides: tuple[str, ...]) -> Config:
    return composed("study", overrides)


@cache
def labelled(count: int = 1600) -> list[Question]:
    """Questions of four kinds and six levels, as many of each."""
    return [
        Question(
            f"q{i:04d}",
            KINDS[i % 4],
            f"Question {i}?",
            ("yes", "no"),
            "A",
            level=1 + i // 4 % 6,
            metadata={"kind": KINDS[i % 4], "samples": 5, "correct": 5 - i // 4 % 6},
        )
        for i in range(count)
    ]


def evaluation(label: str, accuracy: float, seed: int = 0) -> EvaluationResult:
    """A result with this share of right answers, spread at random."""
    right = set(random.Random(f"{label}-{seed}").sample(range(HELD_OUT), round(accuracy * HELD_OUT)))
    grades = [Grade(f"h{i}", "clinic", None, "A", ("A" if i in right else "B",), options=4) for i in range(HELD_OUT)]
    rows = {grade.id: {"id": grade.id, "responses": [{"text": "", "length": 30}]} for grade in grades}
    return EvaluationResult(label, SETTINGS, grades, rows, mean_length=30.0)


def add_run(run: StudyRun, accuracy: float) -> None:
    """What a finished run leaves of itself for the page."""
    evaluation("trained", accuracy, run.seed).write(run.result)
    write_questions(draw(run, labelled()), run.folder.subset)


def make_study(
    root: Path, accuracies: list[list[float]], *overrides: str
) -> tuple[Config, list[Variant], list[StudyRun]]:
    """A study with the accuracies of each variant by seed; fewer than there are seeds are unfinished runs.

    Returns:
        Its settings, variants and runs.
    """
    cfg = study_config(root, f"study.seeds={max(1, *map(len, accuracies))}", *overrides)
    variants = variants_of(cfg)
    runs = runs_of(cfg, variants)
    for variant, values in zip(variants, accuracies, strict=True):
        own = [run for run in runs if run.variant == variant]
        for run, accuracy in zip(own, values, strict=False):
            add_run(run, accuracy)
    evaluation("base", 0.25).write(RunFolder.of(cfg).eval / "base.json")
    return cfg, variants, runs
