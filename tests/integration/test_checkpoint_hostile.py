"""Checkpoints from elsewhere: whatever is in them, loading runs nothing of it, and says which checkpoint it refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.policy.checkpoint.known_classes import check_extra_state
from tests.integration.forged import FORGERIES, Evil, sign
from tests.integration.policy_runs import build, stored_weights, train
from tests.spawn import spawn
from tests.tiny_hf import write_model


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("model"), "llama"))


def save_two(hf, folder):
    policy = build(hf, ParallelConfig(data=dist.get_world_size()))
    for step in (1, 2):
        train(policy, step)
        checkpoint.save(policy, f"{folder}/step_{step}", {"step": step, "stream": {"epoch": 0}})


def refusals(hf, folders):
    """What loading says of each, in training and in a conversion; and the weights of the one that is as it was."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # a user's environment decides nothing here
    policy = build(hf, ParallelConfig())
    messages = []
    for folder in folders:
        found = []
        for load in (lambda folder=folder: checkpoint.load(policy, folder), lambda: stored_weights(hf, folder)):  # noqa: B023
            try:
                load()
                found.append("")
            except checkpoint.CheckpointError as error:
                found.append(str(error))
        messages.append(found)
    return messages


@pytest.fixture(scope="module")
def forged(hf, tmp_path_factory):
    """For each forgery its folder and what loading said of it, in training and in a conversion."""
    root = tmp_path_factory.mktemp("forged")
    spawn(save_two, 1, hf, str(root))
    folders = {name: root / name.replace(" ", "_") / "step_2" for name in FORGERIES}
    for name, folder in folders.items():
        shutil.copytree(root / "step_2", folder)
        FORGERIES[name](folder, Evil(folder.parent / "executed"))
        sign(folder)
        assert not manifest.damage(folder), "the forgery is whole by its manifest"
    (messages,) = spawn(refusals, 1, hf, [*map(str, folders.values()), str(root / "step_2")])
    assert messages.pop() == ["", ""]
    return {name: (folder, found) for (name, folder), found in zip(folders.items(), messages, strict=True)}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_pickle_in_any_file_is_refused_by_name_and_not_executed(forged, name):
    folder, (in_training, in_conversion) = forged[name]
    assert str(folder) in in_training
    assert not in_conversion or str(folder) in in_conversion
    assert not (folder.parent / "executed").exists()


def test_a_conversion_refuses_what_it_reads(forged):
    read = {"plan", "part of the plan", "common state", "weight", "file elsewhere", "description"}
    assert {name for name, (_, (_, in_conversion)) in forged.items() if in_conversion} == read


@pytest.mark.parametrize("name", ["plan", "part of the plan", "random states"])
def test_the_forgeries_are_ones(forged, name):
    """The libraries themselves, left to their ways, run what is in them."""
    folder, _ = forged[name]
    if name == "random states":
        torch.load(folder / "rng.pt", weights_only=False)
    else:
        pickle.loads((folder / ".metadata").read_bytes())
    executed = folder.parent / "executed"
    assert executed.exists()
    executed.unlink()


class Recipe:
    """Stands for what only Transformer Engine could unpickle."""


def test_transformer_engines_own_state_is_looked_through_before_it_is_given_to_it(tmp_path):
    def as_bytes(value):
        return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)

    check_extra_state(torch.empty(0, dtype=torch.uint8))
    check_extra_state(None)
    check_extra_state(io.BytesIO())
    check_extra_state(as_bytes({"scale_fwd": torch.ones(3), "amax_history_fwd": torch.zeros(2, 3), "extra": {"n": 1}}))
    marker = tmp_path / "executed"
    for hostile in (
        as_bytes({"recipe": Evil(marker)}),
        as_bytes({"recipe": Recipe()}),
        as_bytes([os.system]),
        io.BytesIO(pickle.dumps(Evil(marker))),
    ):
        with pytest.raises(pickle.UnpicklingError):
            check_extra_state(hostile)
    assert not marker.exists()


def latest_of_three_ranks(folders):
    """Name of the checkpoint that each rank takes in each folder."""
    return [Path(str(checkpoint.latest(folder))).name for folder in folders]


def test_damage_in_any_ranks_share_is_seen_by_all_and_all_take_the_one_before(hf, tmp_path):
    spawn(save_two, 3, hf, str(tmp_path / "whole"))
    names = manifest.files_of(tmp_path / "whole" / "step_2")
    assert len(names) > 3
    folders = []
    for name in names:
        shutil.copytree(tmp_path / "whole", tmp_path / name / "checkpoints")
        path = tmp_path / name / "checkpoints" / "step_2" / name
        content = bytearray(path.read_bytes() or b"x")  # a rank that has nothing to save leaves an empty file
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        folders.append(str(tmp_path / name / "checkpoints"))
    ranks = spawn(latest_of_three_ranks, 3, [*folders, str(tmp_path / "whole")])
    assert ranks == [["step_1"] * len(names) + ["step_2"]] * 3
