"""From plain values to the typed config, and back to a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphamed_nemo.config import Config
from alphamed_nemo.config.files import known_keys, load_config, to_config, write_config


def test_nothing_set_gives_the_defaults() -> None:
    assert to_config({}) == Config()
    assert to_config(dataclasses.asdict(Config())) == Config()


@pytest.mark.parametrize(
    ("values", "found", "nearest"),
    [
        ({"grpo": {"stps": 3}}, "grpo.stps", "grpo.steps"),
        ({"optim": {"learning_rate": 1e-6}}, "optim.learning_rate", "optim.*optim has lr, min_lr"),
        ({"grpo": {"temperature": 1.0}}, "grpo.temperature", "rollout.temperature"),
        ({"rolout": {"port": 1}}, "rolout", "rollout"),
        ({"parallel": {"tensr": 2}}, "parallel.tensr", "parallel.tensor"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(values: dict, found: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown setting '{found}'; the nearest one is '{nearest}"):
        to_config(values)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("grpo", "steps", "forty", "int"),
        ("grpo", "steps", 2.5, "int"),
        ("grpo", "steps", True, "int"),
        ("grpo", "steps", None, "int"),
        ("optim", "lr", "fast", "float"),
        ("optim", "lr", False, "float"),
        ("run", "resume", 1, "bool"),
        ("run", "loggers", "wandb", "list"),
        ("run", "loggers", [1.5], r"str"),
        ("run", "name", 7.5, "str"),
        ("run", "name", ["a"], "str"),
        ("parallel", "virtual_pipeline", "two", "int"),
    ],
)
def test_a_wrong_type_is_refused_by_name(section: str, key: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"{section}\.{key}.*{expected}"):
        to_config({section: {key: value}})


@pytest.mark.parametrize("value", ["tiny", None, 3, []])
def test_a_section_that_is_no_group_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="model: .*expected a group of settings"):
        to_config({"model": value})


@pytest.mark.parametrize(("value", "number"), [(1, 1.0), ("1e-6", 1e-6), ("3e-4", 3e-4), (0.5, 0.5)])
def test_every_spelling_of_a_number_makes_a_float(value: object, number: float) -> None:
    lr = to_config({"optim": {"lr": value}}).optim.lr
    assert type(lr) is float and lr == number


def test_a_name_may_look_like_a_number() -> None:
    assert to_config({"run": {"name": 7}}).run.name == "7"


def test_an_optional_number_may_be_absent() -> None:
    assert to_config({"parallel": {"virtual_pipeline": None}}).parallel.virtual_pipeline is None
    assert to_config({"parallel": {"virtual_pipeline": 2}}).parallel.virtual_pipeline == 2


@settings(deadline=None)
@given(
    steps=st.integers(1, 10**6),
    lr=st.floats(0, 1, allow_nan=False),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    resume=st.booleans(),
    extra=st.lists(st.sampled_from(["--enforce-eager", "1e-6", "yes", "null", "0x10"]), max_size=3),
)
def test_a_config_survives_its_file(tmp_path_factory, steps, lr, name, resume, extra) -> None:
    cfg = Config()
    cfg.grpo.steps, cfg.optim.lr, cfg.run.name, cfg.run.resume = steps, lr, name, resume
    cfg.rollout.extra_args = extra
    cfg.exp_manager = {"wandb_logger_kwargs": {"project": name}}
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    write_config(cfg, path)
    assert load_config(path) == cfg


def test_secrets_are_not_written_and_come_from_the_environment(tmp_path: Path, monkeypatch) -> None:
    cfg = Config()
    cfg.rollout.api_key, cfg.reward.api_key = "secret-one", "secret-two"
    path = tmp_path / "run" / "config.yaml"
    write_config(cfg, path)
    assert "secret" not in path.read_text()
    monkeypatch.setenv("ALPHAMED_ROLLOUT_API_KEY", "secret-one")
    monkeypatch.setenv("ALPHAMED_REWARD_API_KEY", "secret-two")
    assert load_config(path) == cfg


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "grpo:\n"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a group of settings"):
        load_config(path)


def test_every_setting_is_known_by_its_dotted_name() -> None:
    names = list(known_keys())
    assert len(names) == len(set(names))
    assert {"grpo", "grpo.steps", "parallel.tensor", "exp_manager"} <= set(names)
