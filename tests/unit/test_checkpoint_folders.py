"""Which checkpoint a run resumes from: the newest whole one; damaged ones are named and passed over."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.export.convert import _checkpoint
from alphamed_nemo.grpo import checkpoints
from alphamed_nemo.grpo.checkpoints import Checkpoints
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint import manifest
from tests.stand_in_checkpoint import write_checkpoint


def step(folder, number, **state):
    return write_checkpoint(folder / f"step_{number}", {"step": number, **state}, bytes(range(100)) * number)


@pytest.fixture
def folder(tmp_path):
    for number in (2, 9, 10):
        step(tmp_path, number)
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
    return "manifest.json has format 99, expected 2"


def longer(path):
    with (path / "rng.pt").open("ab") as file:
        file.write(b"\0")
    return "rng.pt has 18 bytes, expected 17"


def swapped(path):
    """Both files are whole, but each is the other checkpoint's."""
    (path / "state.json").write_bytes((path.parent / "step_9" / "state.json").read_bytes())
    return "state.json has 11 bytes, expected 12"


def folder_in_place_of_a_file(path):
    (path / "common.pt").unlink()
    (path / "common.pt").mkdir()
    return "common.pt is missing"


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        shorter,
        longer,
        flipped,
        swapped,
        folder_in_place_of_a_file,
        no_manifest,
        half_manifest,
        newer_format,
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, caplog, damage):
    sentence = damage(folder / "step_10")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(folder) == folder / "step_9"
    assert "step_10" in caplog.text and sentence in caplog.text


def with_checksum(content):
    """The manifest as one would forge it: its checksum fits what it says."""
    return content | {"sha256": manifest._checksum({key: content[key] for key in content if key != "sha256"})}


def without(key):
    return lambda content: with_checksum({name: content[name] for name in content if name != key})


MANIFESTS = {
    "list": lambda content: [],
    "null": lambda content: None,
    "number": lambda content: 1,
    "text": lambda content: "manifest",
    "empty": lambda content: {},
    "true format": lambda content: with_checksum(content | {"format": True}),
    "format 1": lambda content: with_checksum(content | {"format": 1}),
    "no files": lambda content: with_checksum(content | {"files": {}}),
    "files null": lambda content: with_checksum(content | {"files": None}),
    "files list": lambda content: with_checksum(content | {"files": [*content["files"]]}),
    "file null": lambda content: with_checksum(content | {"files": content["files"] | {"rng.pt": None}}),
    "file empty": lambda content: with_checksum(content | {"files": content["files"] | {"rng.pt": {}}}),
    "bytes text": lambda content: with_size(content, "17"),
    "bytes float": lambda content: with_size(content, 17.5),
    "bytes negative": lambda content: with_size(content, -1),
    "a name that no file can have": lambda content: with_name(content, "\0"),
    "a line in a name": lambda content: with_name(content, "a\nresumed from step_10"),
    "a file elsewhere": lambda content: with_name(content, "/etc/passwd"),
    "layout text": lambda content: with_checksum(content | {"layout": "tp2"}),
    "layout of no ranks": lambda content: with_checksum(content | {"layout": content["layout"] | {"tensor": 0}}),
    "optimizer text": lambda content: with_checksum(content | {"optimizer": "yes"}),
    "dtype": lambda content: with_checksum(content | {"dtype": "float8"}),
    "checksum null": lambda content: content | {"sha256": None},
    "flipped value": lambda content: content | {"optimizer": not content["optimizer"]},
    "flipped key": lambda content: {("Dtype" if key == "dtype" else key): content[key] for key in content},
    **{f"without {key}": without(key) for key in ("optimizer", "dtype", "layout", "torch", "megatron", "files")},
    "without sha256": lambda content: {key: content[key] for key in content if key != "sha256"},
}


def with_name(content, name):
    return with_checksum(content | {"files": content["files"] | {name: content["files"]["rng.pt"]}})


def with_size(content, size):
    files = content["files"] | {"rng.pt": content["files"]["rng.pt"] | {"bytes": size}}
    return with_checksum(content | {"files": files})


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_named_and_the_checkpoint_before_is_taken(folder, caplog, change):
    changed = change(dict(manifest.read(folder / "step_10")))
    (folder / "step_10" / manifest.NAME).write_text(json.dumps(changed))
    assert checkpoint.latest(folder) == folder / "step_9"
    assert "step_10: " in caplog.text and len(caplog.records) == 1
    with pytest.raises(checkpoint.CheckpointError, match="step_10: manifest.json"):
        manifest.read(folder / "step_10")


BYTES = [b"", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"format": 2, "files": {', b"\0"]


@pytest.mark.parametrize("content", BYTES, ids=range(len(BYTES)))
def test_bytes_that_are_no_json_are_a_damaged_manifest(folder, content):
    (folder / "step_10" / manifest.NAME).write_bytes(content)
    assert checkpoint.latest(folder) == folder / "step_9"
    with pytest.raises(checkpoint.CheckpointError, match="step_10: manifest.json is damaged"):
        manifest.read(folder / "step_10")


def test_every_byte_of_a_manifest_counts_unless_it_says_the_same(folder):
    path = folder / "step_10" / manifest.NAME
    content = path.read_bytes()
    whole = json.loads(content)
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        damaged = bool(manifest.damage(folder / "step_10"))
        try:
            assert damaged or json.loads(path.read_bytes()) == whole
        except ValueError:
            assert damaged


def test_what_lies_beside_the_files_of_a_checkpoint_is_not_its_business(folder):
    (folder / "step_10" / ".nfs0001").write_text("of the file system")
    assert checkpoint.latest(folder) == folder / "step_10"


def test_shares_of_several_ranks_are_all_files_together(folder):
    path = folder / "step_10"
    for name in manifest.files_of(path):
        content = (path / name).read_bytes()
        (path / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        found = [problem for rank in range(3) for problem in manifest.damage(path, share=(rank, 3))]
        assert found == [f"{name} has another checksum than when it was written"]
        (path / name).write_bytes(content)


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
        step(tmp_path, number, reward=reward)
    assert checkpoint.best(tmp_path) == tmp_path / "step_3"
    assert checkpoint.prune(tmp_path, 2) == [tmp_path / "step_1", tmp_path / "step_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_3", "step_4", "step_5"]


def test_checkpoints_that_were_passed_over_are_counted(folder):
    (folder / "step_10" / "state.json").write_text("{")
    assert checkpoint.passed_over(folder, checkpoint.latest(folder)) == [folder / "step_10"]
    assert checkpoint.passed_over(folder, folder / "step_10") == []
    assert checkpoint.best(folder) is None


@pytest.mark.parametrize("damage", [missing, shorter, longer, no_manifest, half_manifest, newer_format])
def test_prune_neither_counts_nor_removes_a_damaged_one(folder, damage):
    damage(folder / "step_10")
    assert checkpoint.prune(folder, 1) == [folder / "step_2"]
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_9"]


def test_prune_takes_the_word_of_who_has_read_every_byte(folder):
    flipped(folder / "step_10")
    assert checkpoint.prune(folder, 1, damaged=[folder / "step_10"]) == [folder / "step_2"]
    assert (folder / "step_9").exists() and (folder / "step_10").exists()


def test_prune_keeps_what_the_run_resumed_from_and_what_it_has_saved(tmp_path):
    for number in (1, 2, 3, 4):
        step(tmp_path, number)
    assert checkpoint.prune(tmp_path, 1, needed=[tmp_path / "step_1", tmp_path / "step_3"]) == [tmp_path / "step_2"]


def test_prune_that_was_interrupted_is_finished_by_the_next(folder):
    (folder / "step_2").rename(folder / ".step_2.removed")
    assert checkpoint.prune(folder, 2) == []
    assert not (folder / ".step_2.removed").exists()


def test_the_best_is_a_whole_one_with_a_number(tmp_path):
    for number, reward in ((1, 0.5), (2, 0.9), (3, None), (4, "1.0"), (5, [1.0])):
        step(tmp_path, number, reward=reward)
    (tmp_path / "step_6").mkdir()
    (tmp_path / "step_6" / "state.json").write_text("[]")
    assert checkpoint.best(tmp_path) == tmp_path / "step_2"
    longer(tmp_path / "step_2")
    assert checkpoint.best(tmp_path) == tmp_path / "step_1"


def test_the_best_is_the_best_validated_one_where_any_was_validated(tmp_path):
    for number, state in enumerate(({"validation": 0.5}, {"validation": 0.6, "reward": 0.1}, {"reward": 0.9}), start=1):
        step(tmp_path, number, **state)
    assert checkpoint.best(tmp_path) == tmp_path / "step_2"
    assert checkpoint.prune(tmp_path, 1) == [tmp_path / "step_1"]


@pytest.mark.parametrize(
    ("method", "comparable"), [({}, True), ({"dynamic_sampling": True}, False), ({"curriculum": "easy_first"}, False)]
)
def test_a_run_whose_rewards_cannot_be_compared_has_no_best_to_export(tmp_path, monkeypatch, method, comparable):
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.export.checkpoint = str(tmp_path), "run", "best"
    cfg.grpo = replace(cfg.grpo, **method)
    exchange = SimpleNamespace(rank=0, from_rank0=lambda action: action())
    monkeypatch.setattr(checkpoints, "identity", lambda *_: {})
    monkeypatch.setattr(
        checkpoint, "save", lambda _policy, folder, state: step(folder.parent, state.pop("step"), **state)
    )
    kept = Checkpoints(cfg, SimpleNamespace(tokenizer=None), exchange)
    for number, reward in ((1, 0.9), (2, 0.1)):
        kept.rewards.append(reward)
        kept.save(number, {})
    if comparable:
        assert _checkpoint(cfg) == tmp_path / "run" / "checkpoints" / "step_1"
        return
    with pytest.raises(ValueError, match=r"^export.checkpoint: best, but no whole checkpoint in .* was validated"):
        _checkpoint(cfg)


def test_prune_refuses_to_remove_all(folder):
    with pytest.raises(ValueError, match="grpo.keep_checkpoints: found 0"):
        checkpoint.prune(folder, 0)


@pytest.mark.parametrize("state", [{"a": {1, 2}}, {"a": (1, 2)}, {"a": {1: 2}}, {1: 2}, {"a": math.nan}])
def test_a_state_that_would_not_come_back_is_refused(state):
    with pytest.raises(ValueError, match="checkpoint state"):
        checkpoint._as_json(state)
