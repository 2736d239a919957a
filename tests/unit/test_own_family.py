"""A model family from a user's file: what its config.json means, and its weights through Megatron and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig

from alphamed_nemo import families
from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.policy.model import build_model
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.load import load_hf
from alphamed_nemo.policy.weights.stream import stream_hf
from alphamed_nemo.policy.weights.table import hf_shapes
from alphamed_nemo.weight_files import check_model
from tests.spawn import spawn
from tests.tiny_hf import megatron_logits

PLACE = "examples/mistral.py:MISTRAL"
CONFIG = MistralConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=67,
    max_position_embeddings=64,
    sliding_window=None,
)
SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [58, 9, 7, 9, 3, 2, 3, 8, 4, 6, 26, 43, 38, 3]]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    families.register([PLACE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.15 * noise)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def through_megatron(folder: str) -> tuple[float, list[tuple[str, torch.Tensor]]]:
    """Largest difference of the logits from transformers', and the streamed tensors."""
    families.register([PLACE])
    parallel = ParallelConfig()
    initialize(parallel)
    config = AutoConfig.from_pretrained(folder)
    chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), parallel)
    load_hf(chunks, config, folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.cat([reference(torch.tensor([sequence])).logits[0] for sequence in SEQUENCES])
    logits = megatron_logits(chunks, config.vocab_size, SEQUENCES)
    assert logits is not None
    return (logits.double() - expected).abs().max().item(), list(stream_hf(chunks, config))


def test_its_weights_come_back_bit_by_bit_and_its_logits_are_transformers(folder: Path):
    (difference, streamed), *_ = spawn(through_megatron, 1, str(folder))
    assert difference < 1e-5
    stored = load_file(folder / "model.safetensors")
    assert {name for name, _ in streamed} == set(stored)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in streamed)


def test_its_folder_is_read_once_it_is_registered(folder: Path, registered: None):
    assert check_model(folder)["model_type"] == "mistral"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert hf_shapes(CONFIG) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_without_it_the_family_is_unknown(folder: Path):
    with pytest.raises(ValueError, match="model_type: found 'mistral', expected one of llama, qwen2, qwen3"):
        check_model(folder)


@pytest.mark.parametrize(("change", "found"), [({"sliding_window": 32}, "found 32"), (None, "found no such key")])
def test_a_window_is_refused_also_where_transformers_would_take_its_own(
    folder: Path, registered: None, change: dict | None, found: str
):
    config = json.loads((folder / "config.json").read_text())
    config.pop("sliding_window", None)
    (folder / "config.json").write_text(json.dumps(config | (change or {})))
    with pytest.raises(ValueError, match=f"sliding_window: {found}"):
        check_model(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ROWS = {'mistral': 3}\n", "is no dict of model_type"),
        ("ROWS = 3\n", "is no dict of model_type"),
        (
            "from alphamed_nemo.families import FIXED, Family\nROWS = {'llama': Family(True, True, 1, 1, FIXED)}\n",
            "another 'llama' than is there already",
        ),
    ],
)
def test_other_rows_are_refused(tmp_path: Path, source: str, message: str):
    (tmp_path / "rows.py").write_text(source)
    with pytest.raises(ValueError, match=rf"^model\.families: .*{message}"):
        families.register([f"{tmp_path}/rows.py:ROWS"])
