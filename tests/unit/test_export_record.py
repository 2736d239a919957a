"""What a checkpoint says of its own training, where the run went on with other settings and questions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.grpo.identity import questions_contents
from tests.unit.released_run import make_checkpoint, make_run, settings


def test_a_release_tells_the_settings_and_questions_that_its_checkpoint_was_trained_with(tmp_path: Path) -> None:
    cfg = settings(tmp_path / "runs")
    folder = make_run(cfg)
    questions = read_questions(cfg.grpo.questions)
    identity = {
        "settings": {"optim.lr": 1e-6, "grpo.clip_low": 0.2},
        "contents": {"grpo.questions": questions_contents(questions)},
    }
    path = make_checkpoint(folder.checkpoints / "step_10", {"step": 10, "identity": identity})
    cfg.optim.lr, cfg.grpo.clip_low = 3e-6, 0.1
    write_config(cfg, RunFolder.of(cfg).config)
    record = TrainingRecord.of(path)
    assert (record["optim.lr"], record["grpo.clip_low"], record["grpo.steps"]) == (1e-6, 0.2, 20)
    assert record.questions == questions
    assert TrainingRecord.of(folder.checkpoints / "step_20")["optim.lr"] == 3e-6  # which does not say it itself

    changed = [dataclasses.replace(question, stem=f"Other: {question.stem}") for question in questions]
    write_questions(changed, cfg.grpo.questions)  # the same ids
    assert TrainingRecord.of(path).questions == []
    assert json.loads((path / "state.json").read_text())["identity"] == identity
