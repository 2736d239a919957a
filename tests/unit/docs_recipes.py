"""Runs a documented recipe, or runs it as far as its first process; each returns what was done, in words.

Whatever would end the recipe with a message ends the test: the checks are the recipes' own.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alphamed_nemo import devices
from alphamed_nemo.cli import recipe as recipe_top
from alphamed_nemo.cli.arguments import check_arguments
from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.preflight import check_lengths, check_model_folder, check_run, check_training
from alphamed_nemo.config import Config
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.sources import SourceConfig, loader_of
from alphamed_nemo.evaluation.judge import Judge
from alphamed_nemo.evaluation.suites import SUITES
from alphamed_nemo.plan import layout_table as table
from alphamed_nemo.plan.passes import count_passes
from alphamed_nemo.plan.sizes import SHIPPED
from alphamed_nemo.rewards.functions import check_functions
from tests.documented import ROOT
from tests.unit.docs_world import add_files

sys.path.append(str(ROOT / "recipes"))  # as the recipes find each other

ANSWERS = {"label_difficulty": "label", "train_grpo": "rollout", "evaluate": "evaluate"}  # section of their lengths
LEAST_TOKENS = 1024  # of a response; reasoning of a full-size model is cut off by less


class Reached(Exception):
    """A recipe has come as far as its first process."""


class NothingStarts:
    """Stands where a launcher does."""

    running: dict = {}

    def start(self, component) -> None:
        raise Reached(component.name)


def composed(recipe: str, overrides: list[str]) -> Config:
    """As the top of a recipe does it."""
    check_arguments(overrides)
    cfg = recipe_top.composed(recipe, overrides)
    check_values(cfg)
    fill_derived(cfg)
    settle_dtypes(cfg, cuda=recipe in ("plan", "simulate") or is_full_size(cfg))
    return cfg


def is_full_size(cfg: Config) -> bool:
    return (SHIPPED / f"{Path(cfg.model.path).name}.json").is_file()


def check_answers(cfg: Config, section: str) -> None:
    """What no check of the project's refuses, and no documented command should do."""
    found = getattr(cfg, section).max_new_tokens
    assert found >= LEAST_TOKENS or not is_full_size(cfg), f"{section}.max_new_tokens={found} cuts answers off"


def check_passes(cfg: Config, overrides: list[str]) -> None:
    """Before `add_files`, whose questions are few. An experiment says which there are; without one only a file can."""
    if any(word.startswith("grpo.steps=") for word in overrides) or cfg.data.source == "medical_bank":
        return  # a trial, by its own words or by its questions
    passes, named = count_passes(cfg), any(word.startswith("experiment=") for word in overrides)
    assert not named or passes is not None, "it is not known how many questions there are"
    assert passes is None or passes.count >= 1, f"the training questions are not all asked: {passes}"


def check_recipe(recipe: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    cfg = composed(recipe, overrides)
    monkeypatch.setattr(devices, "cuda_is_available", lambda: is_full_size(cfg))  # those are for GPUs
    if recipe in ANSWERS:
        check_answers(cfg, ANSWERS[recipe])
    if recipe in ("train_grpo", "quickstart"):
        check_passes(cfg, overrides)
    if recipe not in ("prepare_data", "plan", "simulate"):
        add_files(cfg)
    return RECIPES[recipe](cfg)


def prepare_data_(cfg: Config) -> str:
    """With small files in place of what the hub has."""
    from prepare_data import prepare_data

    for group, file in ((cfg.sources.train, "mine.jsonl"), (cfg.sources.evaluation, "heldout.jsonl")):
        for name, source in group.items():
            loader = loader_of(name, source)
            assert source.path or loader.hub is not None, f"{name} can be read from a path only"
            if not Path(source.path or "missing").exists():
                group[name] = SourceConfig(set="questions", path=file, heldout=source.heldout)
    cfg.sources.deduplicate = False  # the training sets are one file here
    cfg.data.validation_questions = min(cfg.data.validation_questions, 1)
    prepare_data(cfg)
    assert read_questions(cfg.data.train if cfg.sources.train else cfg.data.heldout)
    return "run, on small files"


def label_difficulty_(cfg: Config) -> str:
    from label_difficulty import label_difficulty

    with pytest.raises(Reached, match="vllm"):
        label_difficulty(cfg, NothingStarts())
    return "checked, to its first process"


def train_grpo_(cfg: Config) -> str:
    from train_grpo import train_grpo

    replayed, first = RunFolder(Path(cfg.grpo.replay)), "trainer" if cfg.grpo.replay else "vllm"
    if cfg.grpo.replay:
        replayed.rollouts.mkdir(exist_ok=True)
        for step in range(1, cfg.grpo.steps + 1):
            replayed.rollouts_of(step).touch()
    check_training(cfg)
    with pytest.raises(Reached, match=first):
        train_grpo(cfg, NothingStarts())
    return "checked, to its first process"


def evaluate_(cfg: Config) -> str:
    from evaluate import evaluate

    from alphamed_nemo.export.convert import is_checkpoint

    if cfg.evaluate.responses:
        assert evaluate(cfg, NothingStarts()).summary.accuracy == 1.0
        return "run, on saved responses"
    for earlier in (*cfg.evaluate.against, *cfg.evaluate.compare):
        assert Path(earlier).is_file()
    if cfg.evaluate.compare:
        return "checked"
    if cfg.evaluate.suite:
        return suite_(cfg)
    if is_checkpoint(Path(cfg.evaluate.model)):
        check_model_folder(cfg.model.path, "model.path")  # the conversion is a test of its own
        return "checked"
    with pytest.raises(Reached, match="vllm"):
        evaluate(cfg, NothingStarts())
    cfg.model.path = cfg.evaluate.model
    model = check_model_folder(cfg.model.path, "evaluate.model")
    check_lengths(cfg, read_questions(cfg.evaluate.questions), model, "evaluate")
    return "checked, to its first process"


def suite_(cfg: Config) -> str:
    """With the same few questions in place of each prepared set."""
    from evaluate import evaluate_suite

    for name in cfg.evaluate.sets or SUITES[cfg.evaluate.suite].sets:
        write_questions(
            read_questions(cfg.evaluate.questions), Path(cfg.sources.out) / "evaluation" / f"{name}.parquet"
        )
    with pytest.raises(Reached, match="vllm"):
        evaluate_suite(cfg, NothingStarts())
    return "checked, to its first process"


def report_(cfg: Config) -> str:
    from report import report

    folder = Path(cfg.run.dir, cfg.run.name)
    if not cfg.report.compare and not (folder / "metrics.jsonl").is_file():
        shutil.copytree("runs/my_run", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("hf", "checkpoints"))
    assert report(cfg).is_file()
    return "run"


def plan_(cfg: Config) -> str:
    from plan import print_plan, print_search

    if cfg.plan.search:
        print_search(cfg)
        return "run"
    if not cfg.plan.table:
        print_plan(cfg)
        return "run"
    cfg.plan.gpu = "h100"  # as the document's table
    model, kept = next(model for model in table.models() if model.name == "Llama-3.1-8B-Instruct"), table.GPUS
    all_models, table.models, table.GPUS = table.models, lambda: [model], (8,)
    try:
        row = next(line for line in table.table(cfg).splitlines() if line.startswith(f"| {model.name} | 8 |"))
    finally:
        table.models, table.GPUS = all_models, kept
    exact = float(row.strip("|").split("|")[-1].replace(",", ""))
    page = (ROOT / "docs" / "plan.md").read_text().splitlines()
    shown = next(line for line in page if line.startswith("| `8b` |")).split("|")[2]
    assert float(shown.replace(",", "")) == pytest.approx(exact, rel=0.05), row
    return "run for one row, which the document has rounded"


def convert_from_hf_(cfg: Config) -> str:
    check_model_folder(cfg.model.path, "model.path")  # the conversion is a test of its own
    return "checked"


def convert_to_hf_(cfg: Config) -> str:
    assert not cfg.export.checkpoint or cfg.export.checkpoint == "best" or Path(cfg.export.checkpoint).is_dir()
    return "checked"


def study_(cfg: Config) -> str:
    """As far as the questions, which only a prepared folder has."""
    from alphamed_nemo.study.variants import variants_of

    if cfg.data.source == "clinic":
        check_run(cfg)
    assert len(variants_of(cfg)) >= 2
    return "checked"


def quickstart_(cfg: Config) -> str:
    check_run(cfg)
    return "checked"


def rescore_(cfg: Config) -> str:
    """As far as the run's files, which test_grpo_kept_rollouts.py grades."""
    check_functions(cfg.reward)
    return "checked up to the run's rollouts"


def only_composed(cfg: Config) -> str:
    return "composed"


def chat_(cfg: Config) -> str:
    """As far as the model's loading, which test_chat.py does."""
    from chat import ask_as_trained, heldout_questions

    check_model_folder(cfg.evaluate.model, "evaluate.model", built=False)
    ask_as_trained(cfg)
    heldout_questions(cfg)
    return "checked up to the model's loading"


def judge_(cfg: Config) -> str:
    """As far as the endpoint, which test_evaluation_judge.py stands in for."""
    Judge(cfg.judge, "").close()
    assert cfg.judge.questions and cfg.judge.responses
    return "checked up to the endpoint"


def simulate_(cfg: Config) -> str:
    """With few and short runs."""
    from simulate import report, simulate

    cfg.simulate.runs, cfg.simulate.batches, cfg.simulate.answers, cfg.simulate.curve = 2, 1, False, False
    cfg.grpo.steps, cfg.simulate.lengths = 20, ""
    path = RunFolder.of(cfg).simulation
    report(simulate(cfg), path)
    assert path.is_file()
    return "run, for a few steps"


RECIPES: dict[str, Callable[[Config], str]] = {
    "prepare_data": prepare_data_,
    "label_difficulty": label_difficulty_,
    "train_grpo": train_grpo_,
    "evaluate": evaluate_,
    "report": report_,
    "judge": judge_,
    "plan": plan_,
    "simulate": simulate_,
    "convert_to_hf": convert_to_hf_,
    "convert_from_hf": convert_from_hf_,
    "make_tiny_model": only_composed,
    "fetch_smollm2": only_composed,
    "chat": chat_,
    "rescore": rescore_,
    "quickstart": quickstart_,
    "study": study_,
}
