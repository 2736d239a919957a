"""Raw data sets → questions: loads, sets unusable rows aside, removes duplicates and leaks, writes the question files.

python recipes/prepare_data.py  # the embedded bank
python recipes/prepare_data.py data.source=sources sources=paper  # the paper's data sets, from the hub
python recipes/prepare_data.py data.source=sources '+sources.train.mine={set: questions, path: mine.jsonl}'
"""

from __future__ import annotations

import logging
from pathlib import Path

from alphamed_nemo.config import Config
from alphamed_nemo.data.bank import embedded_bank
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.prepare import prepare
from alphamed_nemo.launch.recipe import recipe

log = logging.getLogger(__name__)


def prepare_data(cfg: Config) -> None:
    """Writes `data.train` and `data.heldout`, and for real data sets everything under `sources.out` besides."""
    if cfg.data.source == "sources":
        prepare_sources(cfg)
        return
    if cfg.data.source != "clinic":
        raise ValueError(f"data.source: found {cfg.data.source!r}, expected clinic or sources")
    train, heldout = embedded_bank(cfg.data.train_questions, cfg.data.heldout_questions, cfg.data.seed)
    for questions, path in ((train, cfg.data.train), (heldout, cfg.data.heldout)):
        write_questions(questions, path)
        log.info("%d questions in %s", len(questions), path)


def prepare_sources(cfg: Config) -> None:
    out = Path(cfg.sources.out)
    prepare(cfg.sources, out)
    write_questions(read_questions(out / "train.parquet"), cfg.data.train)
    heldout = [question for path in sorted(out.glob("evaluation/*.parquet")) for question in read_questions(path)]
    write_questions(heldout, cfg.data.heldout)
    log.info("questions, what was set aside or removed, and statistics: %s", out)


@recipe("prepare_data")
def main(cfg: Config) -> None:
    prepare_data(cfg)


if __name__ == "__main__":
    main()
