"""Difficulty levels: samples the base model k times per question, counts the correct answers, draws a balanced subset.

python recipes/label_difficulty.py model.path=... label.questions=train.jsonl label.samples=5 label.per_level=200

L1 is the easiest: with k = 5, 5/5 correct is L1 and 0/5 is L6. Writes as it goes, and resumes when run again.
Questions that carry levels of as many samples (label.questions=runs/other/data/labelled.jsonl) are not asked again.
"""

from __future__ import annotations

import logging

from alphamed_nemo.cli.here import check_serving
from alphamed_nemo.cli.preflight import check_lengths, check_model_folder, check_questions
from alphamed_nemo.cli.progress import Waiting, counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import owned
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.difficulty import are_labelled, describe, histogram
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.subsets import choose, draw_subset
from alphamed_nemo.evaluation.labelling import label_questions
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import resumed, rollout_pool, watched

log = logging.getLogger(__name__)


def label_difficulty(cfg: Config, launcher: Launcher) -> None:
    """Writes `data/labelled.jsonl` and the subset that GRPO trains on."""
    questions = check_questions(cfg.label.questions, "label.questions")
    questions = choose(questions, cfg.label.datasets, cfg.label.per_dataset, cfg.data.seed)
    folder = RunFolder.of(cfg)
    labelled = questions if are_labelled(questions, cfg.label.samples) else sample(cfg, questions, launcher)
    write_questions(labelled, folder.labelled)
    levels = cfg.label.samples + 1
    counts = histogram(labelled, levels)
    for level, count in counts.items():
        log.info("  L%d %5d %s", level, count, "█" * round(40 * count / max(counts.values())))
    subset = draw_subset(labelled, cfg.label, cfg.data.seed)
    write_questions(subset, cfg.grpo.questions)
    log.info("subset of %d: %s", len(subset), describe(histogram(subset, levels)))


def sample(cfg: Config, questions: list[Question], launcher: Launcher) -> list[Question]:
    """Asks the base model, with a progress bar."""
    model = check_model_folder(cfg.model.path, "model.path")
    check_lengths(cfg, questions, model, "label")
    pool = rollout_pool(cfg, launcher, cfg.model.path)
    tokenizer = load_tokenizer(cfg.model.path)
    with counter("questions", len(questions)) as progress:
        out, on_progress = RunFolder.of(cfg).labelling, watched(launcher, progress)
        return resumed(cfg, launcher, lambda: label_questions(questions, pool, tokenizer, cfg, out, on_progress))


@recipe("label_difficulty")
def main(cfg: Config) -> None:
    check_serving(cfg, cfg.model.path)
    announce_processor(cfg)
    with owned(cfg, "label_difficulty") as folder, Launcher(folder.logs, Waiting()) as launcher:
        label_difficulty(cfg, launcher)


if __name__ == "__main__":
    main()
