"""The table of names against the names and shapes that transformers itself gives its models."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from alphamed_nemo.policy.weights.table import WeightTable, hf_shapes

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=70)


def config_of(family, tied=False, kv_heads=2, **more):
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family]
    return kind(**SIZES, num_key_value_heads=kv_heads, tie_word_embeddings=tied, **more)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_names_and_shapes_are_those_of_transformers(family, tied):
    config = config_of(family, tied, head_dim=16) if family == "qwen3" else config_of(family, tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # named_parameters lists a tied tensor once, under its first name, as a saved folder does.
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert hf_shapes(config) == expected


def test_order_is_embedding_layers_head():
    names = list(hf_shapes(config_of("llama")))
    assert names[0] == "model.embed_tokens.weight"
    layers = [int(name.split(".")[2]) for name in names if name.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]


def test_no_name_is_in_two_rows():
    table = WeightTable(config_of("qwen3"))
    names = [name for entry in table.entries() for name in (*entry.names, *entry.megatron)]
    assert len(names) == len(set(names))


def test_unknown_family_is_refused_by_name():
    with pytest.raises(ValueError, match="model_type: found 'mistral', expected one of llama, qwen2, qwen3"):
        hf_shapes(MistralConfig(**SIZES))


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_biases_without_a_row_are_refused_by_name(key):
    with pytest.raises(ValueError, match=f"{key}: found True, expected False"):
        hf_shapes(config_of("llama", **{key: True}))
