r"""Raw data sets → questions: loads, sets unusable rows aside, removes duplicates and leaks, writes the question files.

python recipes/prepare_data.py  # the invented clinic's questions
python recipes/prepare_data.py data.source=medical_bank  # the medical questions that come with the project
python recipes/prepare_data.py data.source=sources sources=paper  # the paper's data sets, from the hub
python recipes/prepare_data.py data.source=sources \
    '+sources.train.mine={set: questions, path: mine.jsonl, heldout: 0.2}'
"""

from __future__ import annotations

import logging
from pathlib import Path

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import owned
from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.prepare import prepare

log = logging.getLogger(__name__)


def prepare_data(cfg: Config) -> None:
    """Writes `data.train` and `data.heldout`, and for real data sets everything under `sources.out` besides."""
    if cfg.data.source == "sources":
        prepare_sources(cfg)
        return
    if cfg.data.source == "medical_bank":
        train, heldout = medical_bank()
    else:
        train, heldout, *_ = embedded_bank(cfg.data.train_questions, cfg.data.heldout_questions, cfg.data.seed)
    for questions, path in ((train, cfg.data.train), (heldout, cfg.data.heldout)):
        write_questions(questions, path)
        log.info("%d questions in %s", len(questions), path)


def prepare_sources(cfg: Config) -> None:
    out = Path(cfg.sources.out)
    report = prepare(cfg.sources, out, cfg.data.seed)
    files = {"train": [out / "train.parquet"] if cfg.sources.train else [], "evaluation": []}
    files["evaluation"] = [out / "evaluation" / f"{item.name}.parquet" for item in report.of_role("evaluation")]
    for role, path in (("train", cfg.data.train), ("evaluation", cfg.data.heldout)):
        questions = [question for file in files[role] for question in read_questions(file)]
        write_questions(questions, path)
        log.info("%d questions in %s", len(questions), path)
    if not files["evaluation"]:
        log.warning("nothing to evaluate on: name a set in sources.evaluation, or give a training set `heldout`")
    log.info("questions, what was set aside or removed, and statistics: %s", out)


@recipe("prepare_data", on_gpus=None)
def main(cfg: Config) -> None:
    with owned(cfg, "prepare_data"):
        prepare_data(cfg)


if __name__ == "__main__":
    main()
