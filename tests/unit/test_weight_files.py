"""Whether a folder holds the whole model of its config.json is known from headers, in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from alphamed_nemo.families import dimensions
from alphamed_nemo.weight_files import check_model, locate, read_header
from tests.hollow_model import write_hollow, write_hollow_model
from tests.tiny_hf import CONFIGS, write_model
from tests.unit.test_families import LLAMA, LLAMA3

TIED = LLAMA | {"tie_word_embeddings": True}
HEAD = "lm_head.weight"


@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_writes_passes(tmp_path, name):
    config = check_model(write_model(tmp_path / "whole", name))
    assert config["model_type"] == CONFIGS[name].model_type
    assert check_model(write_model(tmp_path / "sharded", name, max_shard_size="20KB")) == config
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2


def test_a_header_is_read_as_safetensors_reads_it(tmp_path):
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(5, dtype=torch.bfloat16), "c": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    assert {name: stored.shape for name, stored in found.items()} == {
        name: tuple(t.shape) for name, t in tensors.items()
    }
    assert {name: stored.dtype for name, stored in found.items()} == {"a": "BF16", "b": "F32", "c": "F32"}
    for name, stored in found.items():
        raw = content[stored.start : stored.start + stored.size]
        assert raw == tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_model_of_any_size_is_checked_at_once(tmp_path):
    sizes = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    large = LLAMA | sizes | {"intermediate_size": 28672, "vocab_size": 128256}
    folder = write_hollow_model(tmp_path, large)
    assert check_model(folder) == large
    assert (folder / "model.safetensors").stat().st_size > 140e9


@pytest.mark.parametrize("name", ["yarn", "dynamic"])
def test_a_config_that_cannot_be_built_is_refused_with_the_folder(tmp_path, name):
    folder = write_hollow_model(tmp_path, LLAMA)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"rope_scaling": LLAMA3 | {"rope_type": name}}))
    with pytest.raises(ValueError, match=f"^{folder}: config.json: rope_scaling: found rope_type '{name}'"):
        check_model(folder)


def test_a_folder_without_a_head_is_refused(tmp_path):
    """transformers would draw one at random, with no more than a warning."""
    write_hollow_model(tmp_path, TIED)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(ValueError, match="found no lm_head.weight, expected one since .* tie_word_embeddings"):
        check_model(tmp_path)


def test_a_head_beside_tied_embeddings_must_be_the_embedding(tmp_path):
    folder = write_model(tmp_path, "llama-tied-odd-vocabulary")
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {HEAD: embedding.clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    check_model(folder)
    other = embedding.clone()
    other[-1, -1] += 1
    for head in (other, embedding.bfloat16(), embedding[:-1].clone()):
        save_file(tensors | {HEAD: head}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lm_head.weight: found other values than those of model.embed_tokens"):
            check_model(folder)
    save_file(tensors | {HEAD: other}, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(folder)  # what the refusal is for: transformers does not tie them
    assert torch.equal(loaded.lm_head.weight, other) and torch.equal(loaded.model.embed_tokens.weight, embedding)


def shapes_with(**changes):
    return dimensions(LLAMA).tensors() | changes


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (
            {k: v for k, v in shapes_with().items() if k != "model.norm.weight"},
            "F32",
            "1 tensors are missing: model.norm",
        ),
        (
            shapes_with(**{"model.layers.3.mlp.up_proj.weight": (96, 64)}),
            "F32",
            "1 tensors are not expected: model.lay",
        ),
        (shapes_with(**{"score.weight": (2, 64)}), "F32", "1 tensors are not expected: score.weight"),
        (shapes_with(**{"model.norm.weight": (63,)}), "F32", r"found shape \(63,\), expected \(64,\) from config.json"),
        (shapes_with(**{"model.embed_tokens.weight": (72, 64)}), "F16", r"found shape \(72, 64\), expected \(70, 64\)"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(tmp_path, shapes, dtype, message):
    write_hollow_model(tmp_path, LLAMA)
    write_hollow(tmp_path / "model.safetensors", shapes, dtype)
    with pytest.raises(ValueError, match=message):
        check_model(tmp_path)


def test_weights_of_a_type_that_is_not_read_are_refused(tmp_path):
    tensors = {name: torch.zeros(shape, dtype=torch.int8) for name, shape in dimensions(LLAMA).tensors().items()}
    write_hollow_model(tmp_path, LLAMA)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="model.embed_tokens.weight: found type I8, expected one of F64, F32, F16, BF16"
    ):
        check_model(tmp_path)


def test_two_sets_of_weights_are_refused(tmp_path):
    """transformers would read the single file and vLLM the others."""
    write_hollow_model(tmp_path, LLAMA)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    with pytest.raises(ValueError, match="found both model.safetensors and model.safetensors.index.json"):
        locate(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="model.safetensors.index.json"):
        locate(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="model.safetensors: found .* no safetensors; is the download complete"):
        locate(tmp_path)
    path.write_bytes((2**60).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="found 8 bytes that are no safetensors"):
        locate(tmp_path)
