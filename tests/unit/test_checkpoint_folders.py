"""Which checkpoint a run resumes from: the newest whole one; damaged ones are named and passed over."""

from __future__ import annotations

import json
import logging

import pytest

from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint import manifest


def write_checkpoint(folder, number, **state):
    path = folder / f"step_{number}"
    path.mkdir(parents=True)
    (path / "__0_0.distcp").write_bytes(bytes(range(100)) * number)
    (path / "state.json").write_text(json.dumps({"step": number, **state}))
    manifest.write(path, {name: manifest.digest(path / name) for name in manifest.files_of(path)}, {"step": number})
    return path


@pytest.fixture
def folder(tmp_path):
    for number in (2, 9, 10):
        write_checkpoint(tmp_path, number)
    return tmp_path


def test_newest_by_number_not_by_name(folder):
    assert checkpoint.latest(folder) == folder / "step_10"


def test_no_checkpoints(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


def test_unfinished_saves_and_other_folders_are_not_checkpoints(folder):
    for name in (".step_11.partial", ".step_12.replaced", "step_13x", "notes"):
        (folder / name).mkdir()
    assert checkpoint.latest(folder) == folder / "step_10"


def missing(path):
    (path / "__0_0.distcp").unlink()
    return "__0_0.distcp is missing"


def shorter(path):
    (path / "__0_0.distcp").write_bytes(b"12345")
    return "__0_0.distcp has 5 bytes, expected 1000"


def flipped(path):
    content = bytearray((path / "__0_0.distcp").read_bytes())
    content[500] ^= 1
    (path / "__0_0.distcp").write_bytes(content)
    return "__0_0.distcp has another checksum"


def no_manifest(path):
    (path / manifest.NAME).unlink()
    return "manifest.json is missing"


def half_manifest(path):
    text = (path / manifest.NAME).read_text()
    (path / manifest.NAME).write_text(text[: len(text) // 2])
    return "manifest.json is damaged"


def newer_format(path):
    content = manifest.read(path) | {"format": 99}
    (path / manifest.NAME).write_text(json.dumps(content))
    return "manifest.json has format 99, expected 1"


@pytest.mark.parametrize("damage", [missing, shorter, flipped, no_manifest, half_manifest, newer_format])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, caplog, damage):
    sentence = damage(folder / "step_10")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(folder) == folder / "step_9"
    assert "step_10" in caplog.text and sentence in caplog.text


def test_when_all_are_damaged_a_run_does_not_start_afresh_silently(folder):
    for number in (2, 9, 10):
        (folder / f"step_{number}" / "state.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="step_10: state.json is missing .*step_9.*step_2"):
        checkpoint.latest(folder)


def test_prune_keeps_the_newest_and_removes_what_interrupted_saves_left(folder):
    (folder / ".step_11.partial").mkdir()
    (folder / "notes").mkdir()
    assert checkpoint.prune(folder, 2) == [folder / "step_2"]
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "step_10", "step_9"]
    assert checkpoint.prune(folder, 5) == []


def test_prune_keeps_the_best_too(tmp_path):
    for number, reward in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.7), (5, 0.8)):
        write_checkpoint(tmp_path, number, reward=reward)
    assert checkpoint.best(tmp_path) == tmp_path / "step_3"
    assert checkpoint.prune(tmp_path, 2) == [tmp_path / "step_1", tmp_path / "step_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4", "step_5"]


def test_checkpoints_that_were_passed_over_are_counted(folder):
    (folder / "step_10" / "state.json").write_text("{")
    assert checkpoint.passed_over(folder, checkpoint.latest(folder)) == 1
    assert checkpoint.passed_over(folder, folder / "step_10") == 0
    assert checkpoint.best(folder) is None


def test_prune_refuses_to_remove_all(folder):
    with pytest.raises(ValueError, match="grpo.keep_checkpoints: found 0"):
        checkpoint.prune(folder, 0)


@pytest.mark.parametrize("state", [{"a": {1, 2}}, {"a": (1, 2)}, {"a": {1: 2}}, {1: 2}])
def test_a_state_that_would_not_come_back_is_refused(state):
    with pytest.raises(ValueError, match="checkpoint state"):
        checkpoint._as_json(state)
