"""A run folder as training leaves it, whose trained weights are those of the shipped base model; and its release."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoConfig

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder, fill_paths
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.engine import build_result
from alphamed_nemo.evaluation.journal import model_identity, questions_identity
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.export.base_model import BaseModel
from alphamed_nemo.export.release import Origin, export_hf
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.policy.weights.table import hf_shapes
from alphamed_nemo.provenance import release_identity
from tests.stand_in_checkpoint import write_checkpoint

TINY = Path(__file__).parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


def copy_base(folder: Path, readme: str = "", **files: str) -> Path:
    """The tiny base model in a folder of its own, with other papers; `__` in a name stands for its dot."""
    shutil.copytree(TINY, folder)
    (folder / "README.md").write_text(readme)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def settings(root: Path, base: Path = TINY) -> Config:
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(root), "demo"
    cfg.model.path, cfg.model.max_length = str(base), 192
    cfg.data.prompt, cfg.rollout.max_new_tokens = "tiny", 48
    cfg.grpo.steps, cfg.model.dtype = 20, "float32"
    return fill_paths(cfg)


def labelled(count: int) -> list[Question]:
    questions = embedded_bank(count, 0)[0]
    return [dataclasses.replace(question, level=1 + i % 6) for i, question in enumerate(questions)]


def make_run(cfg: Config, step: int = 20, dtype: str = "") -> RunFolder:
    """Writes the run of `cfg` up to a checkpoint; 60 questions, of which the 10th pass has 20 left.

    dtype: that the checkpoint was trained in, where the settings do not say it.
    """
    folder = RunFolder.of(cfg)
    questions = labelled(120)
    write_questions(questions, folder.labelled)
    write_questions(questions[:60], cfg.grpo.questions)
    write_config(cfg, folder.config)
    pending = [question.id for question in questions[:20]]
    state = {"step": step, "stream": {"epoch": 9, "pending": pending}}
    make_checkpoint(folder.checkpoints / f"step_{step}", state, dtype=dtype or cfg.model.dtype)
    return folder


def make_checkpoint(folder: Path, state: dict, optimizer: bool = True, dtype: str = "float32") -> Path:
    """What a card reads of a checkpoint."""
    return write_checkpoint(folder, state, optimizer=optimizer, dtype=dtype)


def release(checkpoint: Path, out: Path, base: Path = TINY, dtype: str = "float32") -> Path:
    """Exports the tiny base model's weights as those of a checkpoint."""
    config, weights = AutoConfig.from_pretrained(base), load_file(base / "model.safetensors")
    stream = [(name, weights[name].float()) for name in hf_shapes(config)]
    return export_hf(stream, config, Origin(BaseModel.of(base), TrainingRecord.of(checkpoint)), out, dtype)


def evaluation(model: Path, right: int, of: int = 40, **asked: object) -> EvaluationResult:
    """A result of `model`, which has the first `right` of `of` questions right."""
    questions = [Question(f"q{i}", "medqa" if i % 2 else "medmcqa", f"Drug {i}?", OPTIONS, "C") for i in range(of)]
    rows = {
        question.id: {
            "id": question.id,
            "responses": [{"text": rf"\boxed{{{'C' if i < right else 'A'}}}", "length": 7}],
        }
        for i, question in enumerate(questions)
    }
    how = {"protocol": "boxed", "samples": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 48, "prompt": "tiny"}
    identity = {"model": str(model), "weights": model_identity(model), "questions": questions_identity(questions)}
    if released := release_identity(model):
        identity["release"] = released
    return build_result("a label", identity | how | asked, questions, rows)
