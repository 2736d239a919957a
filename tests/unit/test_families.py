"""A config.json means what transformers takes it for, and what Megatron would build differently is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.families import FAMILIES, dimensions

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 70,
}
QWEN2, QWEN3 = LLAMA | {"model_type": "qwen2"}, LLAMA | {"model_type": "qwen3"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def without(config: dict, *keys: str) -> dict:
    return {key: value for key, value in config.items() if key not in keys}


MANY_HEADS = {"num_attention_heads": 64, "hidden_size": 1024}
GOOD = {
    "llama": LLAMA,
    "llama, head_dim null": LLAMA | {"head_dim": None},
    "llama, head_dim of its own": LLAMA | {"head_dim": 24},
    "llama without num_key_value_heads": without(LLAMA, "num_key_value_heads"),
    "llama, tied": LLAMA | {"tie_word_embeddings": True},
    "llama 3.1": LLAMA | {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192}},
    "llama 3.1, newer names": LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
    "qwen2": QWEN2 | {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 2},
    "qwen2 without num_key_value_heads": without(QWEN2, "num_key_value_heads") | MANY_HEADS,
    "qwen2, num_key_value_heads null": QWEN2 | {"num_key_value_heads": None},
    "qwen2, full attention by name": QWEN2 | {"layer_types": ["full_attention"] * 3},
    "qwen3 without head_dim": QWEN3,
    "qwen3, tied": QWEN3 | {"head_dim": 16, "tie_word_embeddings": True},
    "qwen3 without num_key_value_heads": without(QWEN3, "num_key_value_heads") | MANY_HEADS,
}


@pytest.mark.parametrize("name", GOOD)
def test_a_config_means_what_transformers_takes_it_for(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(GOOD[name]))
    hf_config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    expected = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    assert dimensions(GOOD[name]).tensors() == expected
    assert dimensions(hf_config) == dimensions(GOOD[name])


BAD = [
    (
        {"model_type": "mistral", "sliding_window": 4096},
        "model_type: found 'mistral', expected one of llama, qwen2, qwen3",
    ),
    ({"model_type": None}, "model_type: found None"),
    ({"sliding_window": 4096}, "sliding_window: found 4096, expected None"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window: found True, expected False"),
    ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window: found True, expected False"),
    (
        {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        "layer_types: found sliding_attention, expected full_attention in every layer",
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        "rope_scaling: found rope_type 'yarn', expected one of default, l",
    ),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "found rope_type 'dynamic'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "found rope_type 'linear'"),
    ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters: found rope_type 'longrope'"),
    (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "expected one set of parameters for all layers",
    ),
    ({"rope_scaling": without(LLAMA3, "factor")}, "rope_scaling: found factor None, expected a positive number"),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "found low_freq_factor and high_freq_factor 1.0"),
    ({"rope_theta": 0}, "found rope_theta 0, expected a positive number"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, expected 1"),
    ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor: found 0.25, expected 1"),
    ({"hidden_act": "gelu"}, "hidden_act: found 'gelu', expected 'silu'"),
    ({"attention_bias": True}, "attention_bias: found True, expected False"),
    ({"mlp_bias": True}, "mlp_bias: found True, expected False"),
    ({"is_causal": False}, "is_causal: found False, expected True"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: found 'awq', expected None"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: found 0, expected a positive whole number"),
    ({"hidden_size": "64"}, "hidden_size: found '64', expected a positive whole number"),
    ({"num_key_value_heads": 3}, "num_key_value_heads: found 3, expected a divisor of the 4 query heads"),
    ({"head_dim": 15}, "head_dim: found 15, expected an even number"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_would_be_built_differently_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError) as error:
        dimensions(LLAMA | changes)
    assert str(error.value).startswith("config.json: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_size_is_refused_by_name(key):
    with pytest.raises(ValueError, match=f"config.json: {key}: found no such key, expected a positive whole number"):
        dimensions(without(LLAMA, key))


def test_buffers_of_old_checkpoints_may_be_ignored_and_nothing_else():
    model = dimensions(LLAMA)
    assert model.may_ignore("model.layers.0.self_attn.rotary_emb.inv_freq") and model.may_ignore(
        "model.rotary_emb.inv_freq"
    )
    for name in ("lm_head.weight", "lm_head.bias", "model.layers.3.mlp.up_proj.weight", "model.layers.0.inv_freq"):
        assert not model.may_ignore(name)
    assert dimensions(LLAMA | {"tie_word_embeddings": True}).may_ignore("lm_head.weight")


def test_families_are_told_apart_without_torch():
    """The checks before a run must not cost the seconds that these imports take."""
    program = (
        "import sys, alphamed_nemo.weight_files, alphamed_nemo.families, alphamed_nemo.errors;"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'megatron', 'transformers', 'numpy'})"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == [] and set(FAMILIES) == {"llama", "qwen2", "qwen3"}
