"""The files of conf/: every one composes into the typed config."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alphamed_nemo.cli.arguments import CONF, check_arguments
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.recipe import register_schema
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import to_config

TOP = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "base")
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix() for path in (CONF / "experiment").rglob("*.yaml")
)
STUDIES = sorted(path.stem for path in (CONF / "experiment" / "study").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (CONF.parent / "recipes").glob("*.py"))


def composed(name: str, *overrides: str) -> Config:
    return to_config(copy.deepcopy(composed_values(name, *overrides)))


@cache
def composed_values(name: str, *overrides: str) -> dict:
    """Kept, since Hydra takes tenths of a second, and several tests look at the same settings."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


@pytest.mark.parametrize("name", TOP)
def test_every_top_config_composes(name: str) -> None:
    assert isinstance(composed(name), Config)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_its_config(recipe: str) -> None:
    assert recipe in TOP


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    assert composed("train_grpo", f"experiment={experiment}") != Config()


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_changes_the_questions_of_a_run_and_how_often_they_are_asked_alone(study: str) -> None:
    plain, cfg = (
        composed("train_grpo", "experiment=grpo_8b"),
        composed("train_grpo", "experiment=grpo_8b", f"experiment/study={study}"),
    )
    assert cfg.run.name == study
    assert set(cfg.sources.evaluation) == {"medqa", "medmcqa", "pubmedqa", "mmlu_pro", "gpqa", "medxpertqa"}
    same = ("model", "parallel", "optim", "rollout", "reward", "evaluate", "plan")
    assert [getattr(cfg, group) for group in same] == [getattr(plain, group) for group in same]
    assert dataclasses.replace(cfg.grpo, questions="", steps=plain.grpo.steps) == plain.grpo


def test_the_studies_are_those_of_the_paper() -> None:
    def study(name: str) -> tuple[list[str], int, int, str]:
        cfg = composed("label_difficulty", "experiment=grpo_8b", f"experiment/study={name}")
        return list(cfg.sources.train), cfg.label.per_level, cfg.label.up_to, cfg.label.subset

    for name in ("medqa", "medmcqa", "pubmedqa"):
        assert study(f"{name}_sub") == ([name], 200, 0, "balanced")  # 1,200 questions
        assert study(f"{name}_2400") == ([name], 400, 0, "balanced")
    assert study("medqa_medmcqa") == (["medqa", "medmcqa"], 200, 0, "by_dataset")
    assert study("medqa_medmcqa_pubmedqa") == (["medqa", "medmcqa", "pubmedqa"], 200, 0, "by_dataset")
    for n in range(1, 7):
        assert study("medqa_l1" if n == 1 else f"medqa_l1_l{n}") == (["medqa"], 200, n, "balanced")
    cfg = composed("train_grpo", "experiment=grpo_8b", "experiment/study=alphamed19k", "run.dir=there")
    assert (list(cfg.sources.train), cfg.grpo.questions) == (["alphamed19k"], "there/alphamed19k/data/train.jsonl")


def test_a_top_config_without_choices_is_the_defaults_of_the_schema() -> None:
    assert composed("train_grpo") == Config()


@pytest.mark.parametrize("experiment", [*EXPERIMENTS, "grpo_8b model.dtype=float32", "grpo_8b precision=fp8"])
def test_rollouts_are_in_the_dtype_of_the_model(experiment: str) -> None:
    name, *overrides = experiment.split()
    cfg = composed("train_grpo", f"experiment={name}", *overrides)
    settle_dtypes(cfg, cuda=True)
    assert cfg.rollout.dtype == cfg.model.dtype


def test_quickstart_is_a_pipeline_of_two_stages_of_two_ranks_on_the_tiny_model() -> None:
    cfg = composed("quickstart")
    assert cfg.run.name == "quickstart"
    assert (cfg.parallel.tensor, cfg.parallel.pipeline, cfg.parallel.world_size) == (2, 2, 4)
    assert Path(cfg.model.path) == CONF.parent / "alphamed_nemo" / "assets" / "tiny_base"
    assert cfg.data.prompt == "tiny" and cfg.model.dtype == "float32"


def test_a_choice_of_an_experiment_can_be_taken_away() -> None:
    assert composed("quickstart", "~parallel").parallel == Config().parallel


def test_the_command_line_wins() -> None:
    cfg = composed("quickstart", "grpo.steps=3", "optim.lr=1e-5", "parallel.tensor=1")
    assert (cfg.grpo.steps, cfg.optim.lr, cfg.parallel.tensor) == (3, 1e-5, 1)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_holds_known_settings_of_the_right_type(path: Path) -> None:
    text = path.read_text()
    values = yaml.safe_load(text)
    values.pop("defaults", None)
    group = path.parent.relative_to(CONF).parts
    if group and "@package _global_" not in text:
        values = {group[0]: values}
    register_schema()
    merged = OmegaConf.merge(dataclasses.asdict(Config()), values)  # for what a value refers to
    cfg = to_config(
        OmegaConf.to_container(merged, resolve=True)
    )  # raises where a setting is unknown or of another type
    assert isinstance(cfg, Config)


@pytest.mark.parametrize(
    "arguments",
    [
        ["grpo.steps=3"],
        ["experiment=tiny", "model=tiny", "~parallel", "experiment/study=medqa_sub", "+label.mixture.medqa=3"],
        ["+exp_manager.seconds_to_sleep=1", "~grpo.steps", "--cfg", "job"],
        ["hydra.verbose=true", "++optim.lr=1e-6"],
        ["run.name=a,b", "reward.weights=[1,2]", "evaluate.label='a,b'", "-c", "job", "--info=config", "--resolve"],
        ["grpo.steps=1,2", "--multirun"],
    ],
)
def test_good_overrides_pass(arguments: list[str]) -> None:
    check_arguments(arguments)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("grpo.stps=3", "unknown setting 'grpo.stps'; the nearest one is 'grpo.steps'"),
        ("+grpo.temperature=1", "unknown setting 'grpo.temperature'; the nearest one is 'rollout.temperature'"),
        (
            "experiment/study=medqa_l7",
            "experiment/study: no conf/experiment/study/medqa_l7.yaml; the nearest one is medqa_l1 ",
        ),
        ("parallel=null", "parallel: null is no choice on the command line; '~parallel' takes"),
        ("experiment=huge", "experiment: no conf/experiment/huge.yaml; there are .*tiny"),
        ("experiment=grpo_8", r"no conf/experiment/grpo_8.yaml; the nearest one is grpo_8b \(there are grpo_3b, .*\)"),
        ("optim.lr=1e-3,1e-4", "^optim.lr: found 1e-3,1e-4, expected one value$"),
        ("grpo.steps=1,2", "^grpo.steps: found 1,2, expected one value$"),
        ("reward.weights=1,2", r"^reward.weights: found 1,2, expected a list: write 'reward.weights=\[1,2\]'$"),
    ],
)
def test_bad_overrides_are_refused_with_what_there_is(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_arguments([argument])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grpo.steps 10", "^grpo.steps: found no value; write grpo.steps=10, without a space$"),
        ("grpo.steps optim.lr=1", "^grpo.steps: found no value; write grpo.steps=value, without a space$"),
        ("grpo.steps= 10", "^found '10', expected a setting such as grpo.steps=10$"),
        ("quick", "^found 'quick', expected a setting such as grpo.steps=10$"),
        ("--cfg job quick", "^found 'quick', expected a setting"),
        ("--grpo.steps 10", "^--grpo.steps is no option; settings are given without dashes, as in grpo.steps=10$"),
        ("--steps=10", "^--steps is no option; settings are given without dashes, as in grpo.steps=10$"),
        ("--max-new-tokens 64", "^--max-new-tokens is no option; .* as in label.max_new_tokens=64$"),
        ("--learning_rate 1e-5", "^--learning_rate is no option; .* as in grpo.steps=10$"),
        ("-v", "^-v is no option; settings are given without dashes, as in grpo.steps=10$"),
    ],
)
def test_what_is_neither_a_setting_nor_an_option_says_what_to_write(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_arguments(words.split())
