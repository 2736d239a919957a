"""A study's stages as commands: to type on one machine, or for the Slurm scripts, by the settings that it would use."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.study.outcome import BASE
from alphamed_nemo.study.study_runs import TRAINED, StudyRun

STAGES = ("label_difficulty", "train_grpo", "convert_to_hf", "evaluate")  # of a run
# Words of the study's own command line that its runs' have other values for.
REPLACED = ("hydra", "study.", "run.name=", "run.dir=", "run.seed=", "data.seed=", "label.questions=", "experiment=")
PRESET = "experiment=tiny"  # of conf/study.yaml


def check_experiment(cfg: Config, words: Sequence[str]) -> None:
    """Raises ValueError where jobs of a full size would get the miniature's settings."""
    if cfg.study.slurm not in ("", "tiny") and not _experiment(words):
        raise ValueError(
            f"study.slurm: found {cfg.study.slurm} without an experiment, whose default is the miniature's; add "
            f"experiment=grpo_{cfg.study.slurm}"
        )


def first_commands(cfg: Config, words: Sequence[str], labelled: bool) -> list[list[str]]:
    """What the runs share: the levels of all questions, unless they are there, and the base model's evaluation."""
    own = {"run.dir": cfg.run.dir, "run.name": cfg.run.name, "run.seed": cfg.run.seed, "data.seed": cfg.data.seed}
    shared = [*_taken(words), *_words({**own, "label.questions": cfg.label.questions})]
    base = ["evaluate.model=${model.path}", f"evaluate.label={BASE}"]
    label, evaluate = ("slurm/label.sh", "slurm/evaluate.sh") if cfg.study.slurm else ("label_difficulty", "evaluate")
    begin = [] if cfg.study.slurm else ["./run"]
    commands = [] if labelled else [[*begin, label, *shared, "label.subset=all"]]
    return [*commands, [*begin, evaluate, *shared, *base]]


def run_words(run: StudyRun, words: Sequence[str]) -> list[str]:
    """The settings of a run as words of a command line.

    Args:
        run: of the study.
        words: of the study's own command line, which its runs take over.
    """
    cfg = run.cfg
    settings = {
        "run.dir": cfg.run.dir,
        "run.name": cfg.run.name,
        "run.seed": run.seed,
        "data.seed": run.seed,
        "data.train": cfg.data.train,
        "data.heldout": cfg.data.heldout,
        "data.validation": cfg.data.validation,
        "label.questions": cfg.label.questions,
        "label.per_dataset": 0,
        **{f"label.{name}": value for name, value in run.variant.label.items()},
        "evaluate.label": TRAINED,
    }
    return [*_taken(words), *_words(settings)]


def run_commands(run: StudyRun, words: Sequence[str]) -> list[str]:
    """What to type for the stages of one run."""
    settings = shlex.join(run_words(run, words))
    return [f"./run {stage} {settings}" for stage in STAGES]


def job_command(run: StudyRun, words: Sequence[str], size: str) -> list[str]:
    """What submits the stages of one run, whose subset has been drawn."""
    return ["slurm/pipeline.sh", size, "--from=grpo", "--no-base", *run_words(run, words)]


def _experiment(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith("experiment=")]


def _taken(words: Sequence[str]) -> list[str]:
    """The experiment, and what else runs take over from the study's command line."""
    experiment = _experiment(words) or [PRESET]
    return [experiment[-1], *(word for word in words if not word.startswith((*REPLACED, "-")))]


def _words(settings: dict[str, Any]) -> list[str]:
    return [
        f"{name}=[{','.join(value)}]" if isinstance(value, list) else f"{name}={value}"
        for name, value in settings.items()
    ]
