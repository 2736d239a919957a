"""A Hugging Face folder that does not hold what the model needs is refused, by the tensor's name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from alphamed_nemo.policy.weights.hf_folder import HfFolder

SHAPES = {"a.weight": (4, 2), "b.weight": (3,)}


def nothing(_name):
    return False


def tensors(**more):
    return {"a.weight": torch.arange(8.0).reshape(4, 2), "b.weight": torch.arange(3.0), **more}


def write_sharded(folder, files, index=None):
    for file, content in files.items():
        save_file(content, folder / file)
    index = index or {name: file for file, content in files.items() for name in content}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_slices_of_one_file(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    with HfFolder(tmp_path) as files:
        files.check(SHAPES, nothing)
        assert torch.equal(files.source("a.weight")[1:3], tensors()["a.weight"][1:3])
        assert torch.equal(files.source("a.weight")[:, 1:2], tensors()["a.weight"][:, 1:2])


def test_slices_of_many_files(tmp_path):
    whole = tensors()
    write_sharded(
        tmp_path, {"1.safetensors": {"a.weight": whole["a.weight"]}, "2.safetensors": {"b.weight": whole["b.weight"]}}
    )
    with HfFolder(tmp_path) as files:
        files.check(SHAPES, nothing)
        assert torch.equal(files.source("b.weight")[:], whole["b.weight"])


def test_missing_tensor(tmp_path):
    save_file({"a.weight": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    with HfFolder(tmp_path) as files, pytest.raises(ValueError, match="1 tensors are missing: b.weight"):
        files.check(SHAPES, nothing)


def test_unexpected_tensor(tmp_path):
    save_file(tensors(c=torch.zeros(1)), tmp_path / "model.safetensors")
    with HfFolder(tmp_path) as files:
        with pytest.raises(ValueError, match="1 tensors are not expected: c"):
            files.check(SHAPES, nothing)
        files.check(SHAPES, lambda name: name == "c")


def test_wrong_shape(tmp_path):
    save_file({"a.weight": torch.zeros(4, 3), "b.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with (
        HfFolder(tmp_path) as files,
        pytest.raises(ValueError, match=r"a.weight: found shape \(4, 3\), expected \(4, 2\)"),
    ):
        files.check(SHAPES, nothing)


def test_index_names_a_file_that_is_not_there(tmp_path):
    index = {"a.weight": "1.safetensors", "b.weight": "2.safetensors"}
    write_sharded(tmp_path, {"1.safetensors": {"a.weight": torch.zeros(4, 2)}}, index)
    with pytest.raises(ValueError, match="2.safetensors: missing"):
        HfFolder(tmp_path)


def test_tensor_in_two_files(tmp_path):
    files = {"1.safetensors": tensors(), "2.safetensors": {"b.weight": torch.zeros(3)}}
    write_sharded(tmp_path, files, {"a.weight": "1.safetensors", "b.weight": "2.safetensors"})
    with pytest.raises(ValueError, match="1.safetensors: disagrees .* only in the file: b.weight"):
        HfFolder(tmp_path)


def test_folder_without_safetensors(tmp_path):
    with pytest.raises(ValueError, match="found neither model.safetensors nor"):
        HfFolder(tmp_path)
