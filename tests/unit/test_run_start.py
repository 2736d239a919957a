"""The run folder at the start of a run: one owner, earlier runs moved aside, nothing of anybody else's removed."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from alphamed_nemo.cli import run_start
from alphamed_nemo.cli.run_start import keep_config, move_aside, own_quickstart, owned, training
from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder, fill_paths
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.grpo.identity import identity
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.run_lock import InUse, hold
from tests.stand_in_checkpoint import write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "alphamed_nemo" / "assets" / "tiny_base"


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A run with its questions in its folder, as label_difficulty leaves them."""
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.run.loggers = str(tmp_path), "mine", []
    cfg.model.path, cfg.model.max_length, cfg.model.dtype = str(BASE), 192, "float32"
    cfg.rollout.max_new_tokens, cfg.rollout.dtype, cfg.rollout.memory_gb = 48, "float32", 0.1
    cfg.data.prompt, cfg.data.chat_template = "tiny", False
    fill_paths(cfg)
    cfg.grpo.questions_per_step = 8
    write_questions(embedded_bank(8, 0)[0], cfg.grpo.questions)
    return cfg


def with_checkpoint(cfg: Config, step: int, stored: dict | None) -> Path:
    """A whole checkpoint without weights."""
    path = RunFolder.of(cfg).checkpoints / f"step_{step}"
    state = {"step": step, "stream": {"epoch": 0, "pending": []}}
    return write_checkpoint(path, state | ({"identity": stored} if stored else {}))


def identity_of(cfg: Config) -> dict:
    from transformers import AutoTokenizer

    return identity(cfg, AutoTokenizer.from_pretrained(cfg.model.path))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and not path.name.endswith("lock")
    }


def earlier_run(cfg: Config) -> RunFolder:
    """What a training leaves."""
    folder = RunFolder.of(cfg)
    with_checkpoint(cfg, 30, None)
    for path in (folder.metrics, folder.samples / "step_30.jsonl", folder.root / "tensorboard" / "events", folder.done):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    for path in (folder.eval / "base.json", folder.hf / "provenance.json"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    write_config(cfg, folder.config)
    return folder


def test_a_fresh_run_moves_the_whole_earlier_one_aside_and_keeps_a_copy_of_its_questions(cfg, caplog):
    folder = earlier_run(cfg)
    before = files(folder.root)
    cfg.run.resume = False
    with caplog.at_level("INFO"), training(cfg, "train_grpo"):
        assert list(files(folder.root)) == ["data/subset.jsonl"]
        (aside,) = (path for path in folder.root.parent.iterdir() if path.name.startswith("mine."))
        assert files(aside) == before
        with pytest.raises(InUse), owned(cfg, "another"):
            pass
    assert caplog.text.count("is now") == 1 and str(aside) in caplog.text
    assert aside.name.removeprefix("mine.").replace("-", "").isdecimal()
    assert Path(cfg.grpo.questions).read_bytes() == before["data/subset.jsonl"]


def test_two_fresh_runs_within_a_second_have_two_names(cfg):
    names = set()
    for _ in range(3):
        earlier_run(cfg)
        names.add(move_aside(cfg))
    assert len(names) == 3 and all((path / "checkpoints" / "step_30").is_dir() for path in names)


def test_a_fresh_run_in_a_folder_with_questions_alone_moves_nothing(cfg):
    cfg.run.resume = False
    RunFolder.of(cfg).logs.mkdir()
    with training(cfg, "train_grpo"):
        pass
    assert [path.name for path in Path(cfg.run.dir).iterdir()] == ["mine"]


def test_a_fresh_run_from_the_earlier_ones_model_is_refused_and_nothing_is_moved(cfg):
    folder = earlier_run(cfg)
    shutil.rmtree(folder.hf)
    shutil.copytree(BASE, folder.hf)
    cfg.model.path, cfg.run.resume = str(folder.hf), False
    with pytest.raises(ValueError, match=r"model.path: .*mine/hf is part of the run that run.resume=false moves aside"):
        with training(cfg, "train_grpo"):
            pass
    assert (folder.checkpoints / "step_30").is_dir()


def test_settings_that_cannot_work_leave_the_earlier_run_where_it_is(cfg):
    folder = earlier_run(cfg)
    cfg.run.resume, cfg.parallel.tensor = False, 3
    with pytest.raises(ValueError, match="parallel.tensor: 3 does not divide"), training(cfg, "train_grpo"):
        pass
    assert (folder.checkpoints / "step_30").is_dir() and not folder.lock.exists()


def test_a_folder_with_a_running_trainer_is_refused_whoever_started_it(cfg):
    folder = earlier_run(cfg)
    cfg.run.resume = False
    with hold(folder.trainer_lock, "trainer"), pytest.raises(InUse, match="trainer on"), training(cfg, "train_grpo"):
        pass
    assert (folder.checkpoints / "step_30").is_dir()


def test_a_quickstart_replaces_an_earlier_quickstart(cfg):
    folder = RunFolder.of(cfg)
    shutil.rmtree(folder.root)
    for _ in range(2):
        with own_quickstart(cfg):
            assert files(folder.root) == {".quickstart": b""}
            earlier_run(cfg)


@pytest.mark.parametrize("name", ["config.yaml", "notes.txt", "checkpoints/step_3/state.json"])
def test_a_quickstart_removes_nothing_that_it_did_not_make(cfg, name):
    folder = RunFolder.of(cfg)
    shutil.rmtree(folder.root)
    path = folder.root / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"run.name: .*mine holds .* was not made by a quickstart") as error:
        with own_quickstart(cfg):
            pass
    assert "\n" not in str(error.value)
    assert files(folder.root) == {name: b"mine"}


def test_a_quickstarts_folder_that_a_training_went_on_in_is_no_quickstarts_any_more(cfg):
    folder = RunFolder.of(cfg)
    folder.quickstart.touch()
    with training(cfg, "train_grpo"):
        pass
    with pytest.raises(ValueError, match="was not made by a quickstart"), own_quickstart(cfg):
        pass


def test_a_resume_with_the_same_settings_starts_and_says_nothing(cfg, caplog):
    with_checkpoint(cfg, 4, identity_of(cfg))
    with training(cfg, "train_grpo"):
        pass
    assert not caplog.records


def test_a_resume_with_other_questions_is_refused_before_anything_is_written(cfg):
    path = with_checkpoint(cfg, 4, identity_of(cfg))
    write_config(cfg, RunFolder.of(cfg).config)
    before = files(RunFolder.of(cfg).root)
    questions = Path(cfg.grpo.questions)
    questions.write_text(questions.read_text().replace('"answer": "A"', '"answer": "B"'))
    before["data/subset.jsonl"] = questions.read_bytes()
    with pytest.raises(ValueError, match=rf"{path} was trained with another grpo.questions \(8 questions, sha256"):
        with training(cfg, "train_grpo"):
            pass
    assert files(RunFolder.of(cfg).root) == before
    cfg.run.accept_changes = ["grpo.questions"]
    with training(cfg, "train_grpo"):
        pass


def test_a_damaged_checkpoint_is_not_asked_what_the_run_was(cfg):
    other = identity_of(cfg)
    other["settings"]["run.seed"] = 2
    damaged = with_checkpoint(cfg, 8, other)
    (damaged / "state.json").write_text("{")
    with_checkpoint(cfg, 4, identity_of(cfg))
    with training(cfg, "train_grpo"):
        pass


def test_the_config_of_every_attempt_is_kept(cfg):
    folder = RunFolder.of(cfg)
    for rate in (1e-6, 2e-6, 3e-6):
        cfg.optim.lr = rate
        keep_config(cfg)
    assert load_config(folder.config).optim.lr == 3e-6
    kept = {path.name: load_config(path).optim.lr for path in folder.attempts.iterdir()}
    assert kept == {"1.yaml": 1e-6, "2.yaml": 2e-6}


def test_a_start_that_was_killed_while_it_kept_a_config_costs_no_attempt_and_leaves_none_twice(cfg, monkeypatch):
    folder = RunFolder.of(cfg)
    keep_config(cfg)
    monkeypatch.setattr(run_start, "write_config", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    cfg.optim.lr = 2e-6
    with pytest.raises(KeyboardInterrupt):
        keep_config(cfg)
    monkeypatch.undo()
    cfg.optim.lr = 3e-6
    keep_config(cfg)
    assert load_config(folder.config).optim.lr == 3e-6
    assert {path.name: load_config(path).optim.lr for path in folder.attempts.iterdir()} == {"1.yaml": 1e-6}


def test_a_copy_of_a_config_that_fails_leaves_nothing(cfg, monkeypatch):
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = RunFolder.of(cfg)
    keep_config(cfg)
    before = folder.config.read_bytes()
    monkeypatch.setattr(shutil, "copy2", half)
    with pytest.raises(OSError, match=r"No space left on device: .*attempts/1\.yaml"):
        keep_config(cfg)
    assert list(folder.attempts.iterdir()) == [] and folder.config.read_bytes() == before


def test_what_killed_owners_left_half_written_is_removed_and_nothing_of_others(cfg):
    folder = RunFolder.of(cfg)
    left = [folder.root / f".{name}.4711.part" for name in ("config.yaml", "metrics.jsonl", ".hashes.json")]
    left += [folder.attempts / ".3.yaml.4711.part", folder.train.parent / ".train.jsonl.4711.part"]
    others = [folder.root / ".summary.json.4711.part", folder.eval / ".base.json.4711.part", folder.root / "my.part"]
    for path in (*left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with owned(cfg, "train_grpo"):
        assert not any(path.exists() for path in left) and all(path.exists() for path in others)


def test_a_fresh_start_that_was_killed_while_it_moved_the_earlier_run_is_finished_by_the_next(cfg, monkeypatch):
    folder = earlier_run(cfg)
    before = files(folder.root)
    cfg.run.resume = False
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name.endswith(".fresh"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt), training(cfg, "train_grpo"):
        pass
    monkeypatch.undo()
    assert not folder.root.exists()
    with training(cfg, "train_grpo"):
        assert list(files(folder.root)) == ["data/subset.jsonl"]
    (aside,) = (path for path in folder.root.parent.iterdir() if path != folder.root)
    assert files(aside) == before


def test_the_base_model_is_hashed_once(cfg, monkeypatch, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BASE, model)
    cfg.model.path = str(model)
    first = identity_of(cfg)
    known = json.loads(RunFolder.of(cfg).hashes.read_text())
    weights = model / "model.safetensors"
    assert [entry[-1] for entry in known.values()] == [hashlib.sha256(weights.read_bytes()).hexdigest()]
    monkeypatch.setattr(
        "alphamed_nemo.grpo.identity.digest", lambda path: manifest.digest(path) + "read" * (path == weights)
    )
    assert identity_of(cfg) == first
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.undo()
    assert identity_of(cfg)["contents"]["model.path"] != first["contents"]["model.path"]
