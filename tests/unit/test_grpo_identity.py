"""What a resumed run compares with its checkpoint: every kind of change, by name and with both values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import known_settings
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.resuming import GROUPS, SETTINGS, acceptable, on_resume
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.grpo.identity import compare, identity

BASE = Path(__file__).resolve().parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
WHERE = Path("runs/mine/checkpoints/step_4")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A run with a model folder and files of its own, so that a test can change them."""
    cfg = Config()
    cfg.run.dir = str(tmp_path / "runs")
    cfg.model.path = str(shutil.copytree(BASE, tmp_path / "model"))
    cfg.data.prompt, cfg.data.chat_template = "tiny", False
    cfg.grpo.questions = str(tmp_path / "questions.jsonl")
    write_questions(embedded_bank(8, 0)[0], cfg.grpo.questions)
    loss = tmp_path / "loss.py"
    loss.write_text("def loss(tokens, cfg):\n    return 0\n")
    cfg.grpo.loss = f"{loss}:loss"
    return cfg


def of(cfg: Config) -> dict:
    """As a checkpoint gives it back."""
    return json.loads(json.dumps(identity(cfg, AutoTokenizer.from_pretrained(cfg.model.path))))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_architecture(cfg: Config) -> None:
    edit(Path(cfg.model.path, "config.json"), lambda values: values.update(rms_norm_eps=1e-3))


def other_weights(cfg: Config) -> None:
    path = Path(cfg.model.path, "model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the same size, names and shapes
    path.write_bytes(content)


def other_token(cfg: Config) -> None:
    def swap(values: dict) -> None:
        vocabulary = values["model"]["vocab"]
        first, second = list(vocabulary)[100:102]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    edit(Path(cfg.model.path, "tokenizer.json"), swap)


def other_key(cfg: Config) -> None:
    rows = [json.loads(line) for line in Path(cfg.grpo.questions).read_text().splitlines()]
    rows[3]["answer"] = next(letter for letter in "AB" if letter != rows[3]["answer"])
    Path(cfg.grpo.questions).write_text("".join(json.dumps(row) + "\n" for row in rows))


def fewer_questions(cfg: Config) -> None:
    write_questions(embedded_bank(8, 0)[0][:7], cfg.grpo.questions)


def built_in_loss(cfg: Config) -> None:
    cfg.grpo.loss = "gspo"


def a_reward_of_its_own(cfg: Config) -> None:
    cfg.reward.functions = ["correct", cfg.grpo.loss]


def other_loss(cfg: Config) -> None:
    path = Path(cfg.grpo.loss.removesuffix(":loss"))
    path.write_text(path.read_text().replace("0", "1"))


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (other_architecture, "model.path", "sha256"),
        (other_weights, "model.path", "sha256"),
        (other_token, "tokenizer", "sha256"),
        (other_key, "grpo.questions", "8 questions, sha256"),
        (
            fewer_questions,
            "grpo.questions",
            r"8 questions, sha256 \w{12} in the checkpoint, 7 questions, sha256 \w{12} now",
        ),
        (other_loss, "grpo.loss", "loss, sha256"),
        (built_in_loss, "grpo.loss", r"loss, sha256 \w{12} in the checkpoint, gspo now"),
        (a_reward_of_its_own, "reward.functions", "none in the checkpoint, correct, loss, sha256"),
    ],
)
def test_other_contents_under_the_same_names_are_refused_unless_asked_for(cfg, change, name, said):
    before = of(cfg)
    change(cfg)
    with pytest.raises(ValueError, match=rf"{WHERE} was trained with another {name} \(.*{said}") as error:
        compare(before, of(cfg), [], WHERE)
    assert f"run.accept_changes=[{name}]" in str(error.value) and "\n" not in str(error.value)
    compare(before, of(cfg), [name], WHERE)


REFUSED = {
    "run.seed": 7,
    "data.prompt": "direct",
    "data.template_date": "2025-01-01",
    "rollout.temperature": 0.7,
    "reward.protocol": "lenient",
    "grpo.advantage": "group_mean",
    "grpo.kl_coef": 0.1,
    "grpo.clip_high": 0.28,
    "grpo.updates_per_batch": 2,
    "grpo.samples_per_question": 4,
}
TAKEN = {
    "optim.lr": 3e-6,
    "optim.schedule": "cosine",
    "optim.beta2": 0.99,
    "grpo.steps": 200,
    "parallel.tensor": 2,
    "model.recompute": "full",
    "rollout.max_new_tokens": 4096,
}


def changed(cfg: Config, name: str, value: object) -> object:
    group, field = name.split(".")
    before = getattr(getattr(cfg, group), field)
    setattr(getattr(cfg, group), field, value)
    return before


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_of_the_method_is_refused_with_both_values_unless_asked_for(cfg, name, caplog):
    stored = of(cfg)
    before = changed(cfg, name, REFUSED[name])
    said = rf"another {name} \({before} in the checkpoint, {REFUSED[name]} now\)"
    with pytest.raises(ValueError, match=said):
        compare(stored, of(cfg), [], WHERE)
    compare(stored, of(cfg), [name], WHERE)
    assert (
        f"resumed with another {name} ({before} in the checkpoint, {REFUSED[name]} now), as run.accept" in caplog.text
    )


@pytest.mark.parametrize("name", TAKEN)
def test_a_setting_that_a_run_may_change_is_taken_and_logged_with_both_values(cfg, name, caplog):
    stored = of(cfg)
    before = changed(cfg, name, TAKEN[name])
    compare(stored, of(cfg), [], WHERE)
    said = f"resumed with another {name} ({before} in the checkpoint, {TAKEN[name]} now): the new value is taken"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_every_difference_is_named_at_once(cfg):
    stored = of(cfg)
    changed(cfg, "run.seed", 7)
    changed(cfg, "grpo.clip_low", 0.1)
    other_key(cfg)
    with pytest.raises(ValueError, match=r"accept_changes=\[run.seed,grpo.clip_low,grpo.questions\]"):
        compare(stored, of(cfg), [], WHERE)


def test_the_same_files_in_another_place_are_the_same_run(cfg, tmp_path, caplog):
    stored = of(cfg)
    loss = Path(cfg.grpo.loss.removesuffix(":loss"))
    cfg.grpo.loss = f"{loss.rename(tmp_path / 'moved.py')}:loss"
    for key in (cfg.model.path, cfg.grpo.questions):
        Path(key).rename(f"{key}.moved.jsonl")
    cfg.model.path, cfg.grpo.questions = f"{cfg.model.path}.moved.jsonl", f"{cfg.grpo.questions}.moved.jsonl"
    lines = Path(cfg.grpo.questions).read_text().splitlines()
    Path(cfg.grpo.questions).write_text("\n".join(reversed(lines)) + "\n")  # the run's order is its seed's
    cfg.run.dir, cfg.run.name, cfg.rollout.urls, cfg.rollout.port = str(tmp_path / "there"), "new", ["http://n2:1"], 1
    compare(stored, of(cfg), [], WHERE)
    assert not caplog.records


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_resumed_with_a_warning(cfg, caplog):
    compare(None, of(cfg), [], WHERE)
    assert f"{WHERE} does not say what it was trained with" in caplog.text


def test_a_setting_that_the_checkpoint_does_not_know_is_not_compared(cfg, caplog):
    stored = of(cfg)
    del stored["settings"]["grpo.clip_low"], stored["contents"]["tokenizer"]
    compare(stored, of(cfg), [], WHERE)
    assert not caplog.records


def test_the_table_names_settings_that_exist():
    names = {name for name, *_ in known_settings()}
    assert names.issuperset(SETTINGS)
    assert {name.partition(".")[0] for name in names}.issuperset(GROUPS)
    assert all(
        on_resume(name) == "unasked" for name in names if name.endswith(("api_key", "extra_args", ".url", ".urls"))
    )


def test_what_may_be_accepted_is_checked_by_name():
    cfg = Config()
    cfg.run.accept_changes = ["tokenizer", "grpo.questions", "grpo.kl_coef"]
    check_values(cfg)
    for wrong in ("grpo.kl", "optim.lr", "run.name"):
        cfg.run.accept_changes = [wrong]
        with pytest.raises(ValueError, match=f"run.accept_changes: found '{wrong}', expected some of run.seed, "):
            check_values(cfg)
    assert "tokenizer" in acceptable() and "grpo.steps" not in acceptable()
