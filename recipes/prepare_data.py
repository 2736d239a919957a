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
from alphamed_nemo.data.holdout import keep_for_validation
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.prepare import dedup_settings, prepare
from alphamed_nemo.data.question import Question

log = logging.getLogger(__name__)


def prepare_data(cfg: Config) -> None:
    """Writes `data.train`, `data.heldout` and, if asked for, `data.validation`; for real data sets everything under
    `sources.out` besides."""
    data, wanted = cfg.data, cfg.data.validation_questions
    if data.source == "clinic":
        train, heldout, *more = embedded_bank(data.train_questions, data.heldout_questions, data.seed, wanted)
        validation = more[0] if more else []
    else:
        train, heldout = medical_bank() if data.source == "medical_bank" else prepared_sources(cfg)
        validation = []
        if wanted and train:
            train, validation = keep_for_validation(train, wanted, data.seed, dedup_settings(cfg.sources))
    files = [(train, data.train), (heldout, data.heldout), *([(validation, data.validation)] if wanted else [])]
    for questions, path in files:
        write_questions(questions, path)
        log.info("%d questions in %s", len(questions), path)


def prepared_sources(cfg: Config) -> tuple[list[Question], list[Question]]:
    """Training and evaluation questions of the data sets of `sources`, and everything under `sources.out`."""
    out = Path(cfg.sources.out)
    report = prepare(cfg.sources, out, cfg.data.seed)
    files = {"train": [out / "train.parquet"] if cfg.sources.train else [], "evaluation": []}
    files["evaluation"] = [out / "evaluation" / f"{item.name}.parquet" for item in report.of_role("evaluation")]
    train, evaluation = ([question for file in found for question in read_questions(file)] for found in files.values())
    if not files["evaluation"]:
        log.warning("nothing to evaluate on: name a set in sources.evaluation, or give a training set `heldout`")
    log.info("questions, what was set aside or removed, and statistics: %s", out)
    return train, evaluation


@recipe("prepare_data", on_gpus=None)
def main(cfg: Config) -> None:
    with owned(cfg, "prepare_data"):
        prepare_data(cfg)


if __name__ == "__main__":
    main()
