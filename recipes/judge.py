"""Answers in free text → a score by rubrics: somebody else's model says what is met. No other recipe does it.

    export ALPHAMED_JUDGE_API_KEY=...  # the endpoint's key, which no file of the run will hold
    ./run judge run.name=my_run judge.url=https://host/v1 judge.model=my-judge \\
        judge.questions=healthbench.jsonl judge.responses=answers.jsonl

Questions are JSON lines as HealthBench publishes them, answers JSON lines with `id` (the prompt_id) and `response`.
What is sent leaves this machine: each question, its answer and its criteria. A killed run resumes.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from alphamed_nemo.cli.progress import counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.evaluation.judged import judge_responses
from alphamed_nemo.evaluation.table_text import with_interval
from alphamed_nemo.export.card_results import update_card

KEY = "ALPHAMED_JUDGE_API_KEY"
log = logging.getLogger(__name__)


def judge(cfg: Config) -> Path:
    """Judges `judge.responses`, brings the run's model card up to date, and returns the result's file."""
    wanted, folder = cfg.judge, RunFolder.of(cfg)
    for name in ("questions", "responses"):
        if not Path(getattr(wanted, name)).is_file():
            raise ValueError(f"judge.{name}={getattr(wanted, name)!r}: expected a file of JSON lines")
    out = folder.eval / "judged" / f"{cfg.evaluate.label}.json"
    model = cfg.evaluate.model if Path(cfg.evaluate.model).is_dir() else ""
    with counter("questions", 0) as progress:
        result = judge_responses(wanted, os.environ.get(KEY, ""), model, cfg.evaluate.label, out, progress)
    low, high = result["interval"]
    log.info(
        "%s: %s %% of the points (n = %d, %d without an answer), judged by %s",
        cfg.evaluate.label,
        with_interval(result["score"], (low, high)),
        result["n"],
        result["without_answer"],
        wanted.model,
    )
    if update_card(folder.hf, folder.eval):
        log.info("model card: %s", folder.hf / "README.md")
    return out


@recipe("judge", on_gpus=None)
def main(cfg: Config) -> None:
    log.info("judged: %s", judge(cfg))


if __name__ == "__main__":
    main()
