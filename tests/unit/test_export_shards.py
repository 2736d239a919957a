"""Weights written as they stream past: files of a bounded size, an index over them, and nothing missing or twice."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphamed_nemo.export.shards import plan, write_shards

SHAPES = {f"layer.{i}": (10, 5) for i in range(7)} | {"head": (200,)}  # 200 bytes a layer in float32, 800 the head


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def test_files_hold_at_most_the_size_asked_for_and_at_least_one_tensor():
    files = plan(SHAPES, torch.float32, 500)
    assert [len(content) for content in files] == [2, 2, 2, 1, 1]
    assert [name for content in files for name in content] == list(SHAPES)


def test_a_small_model_is_one_file(tmp_path):
    whole = tensors()
    assert write_shards(whole.items(), SHAPES, tmp_path, torch.float32, 1.0) == ["model.safetensors"]
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[name], whole[name]) for name in SHAPES)


def test_many_files_and_their_index(tmp_path):
    whole = tensors()
    names = write_shards(whole.items(), SHAPES, tmp_path, torch.bfloat16, 3e-7)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert names == sorted(set(index["weight_map"].values())) + ["model.safetensors.index.json"]
    assert names[0] == f"model-00001-of-0000{len(names) - 1}.safetensors"
    stored = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert stored.keys() == SHAPES.keys()
    for name in SHAPES:
        assert torch.equal(stored[name], whole[name].bfloat16())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_are_byte_for_byte_those_of_safetensors(tmp_path, dtype):
    whole = tensors()
    write_shards(whole.items(), SHAPES, tmp_path, dtype, 5e-7)
    for content, path in zip(plan(SHAPES, dtype, 500), sorted(tmp_path.glob("*.safetensors")), strict=True):
        save_file({name: whole[name].to(dtype) for name in content}, tmp_path / "theirs", metadata={"format": "pt"})
        assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_no_tensor_is_kept(tmp_path):
    """When a tensor is asked for, all before it are gone."""
    earlier = []

    def stream():
        for name, shape in SHAPES.items():
            assert not any(tensor() is not None for tensor in earlier)
            tensor = torch.zeros(shape)
            earlier.append(weakref.ref(tensor))
            yield name, tensor
            del tensor

    write_shards(stream(), SHAPES, tmp_path, torch.float32, 5e-7)


def without(name):
    return [(key, tensor) for key, tensor in tensors().items() if key != name]


@pytest.mark.parametrize(
    "stream, message",
    [
        (without("layer.3"), "found layer.4, expected layer.3"),
        (without("head"), "the stream ended, expected head"),
        ([*tensors().items(), ("head", torch.zeros(200))], "found head, expected no more tensors"),
        ([("layer.0", torch.zeros(5, 10))], r"layer.0: found shape \(5, 10\), expected \(10, 5\)"),
    ],
    ids=["missing", "short", "twice", "shape"],
)
def test_a_stream_that_does_not_fit_is_refused_by_name(tmp_path, stream, message):
    with pytest.raises(ValueError, match=message):
        write_shards(stream, SHAPES, tmp_path, torch.float32, 1.0)
