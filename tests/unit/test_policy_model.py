import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.config.choices import Fusion, names
from alphamed_nemo.policy.model import padded_vocab_size, rope_frequencies, spec_name, transformer_config
from alphamed_nemo.policy.runtime import check, initialize
from tests.spawn import spawn

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 101,
}
SWITCHES = {  # model.fusions → Megatron's
    "rope": "apply_rope_fusion",
    "bias_activation": "bias_activation_fusion",
    "bias_dropout": "bias_dropout_fusion",
    "masked_softmax": "masked_softmax_fusion",
    "gradient_accumulation": "gradient_accumulation_fusion",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_families_map_to_megatron():
    llama = transformer_config(LlamaConfig(**SIZES), ModelConfig(dtype="float32"), ParallelConfig())
    assert (llama.num_query_groups, llama.kv_channels, llama.ffn_hidden_size) == (2, 16, 96)
    assert (llama.add_qkv_bias, llama.qk_layernorm, llama.gated_linear_unit) == (False, False, True)
    qwen2 = transformer_config(Qwen2Config(**SIZES), ModelConfig(dtype="float32"), ParallelConfig())
    assert (qwen2.add_qkv_bias, qwen2.qk_layernorm) == (True, False)
    qwen3 = transformer_config(Qwen3Config(**SIZES, head_dim=24), ModelConfig(dtype="bfloat16"), ParallelConfig())
    assert (qwen3.add_qkv_bias, qwen3.qk_layernorm, qwen3.kv_channels) == (False, True, 24)
    assert qwen3.bf16 and qwen3.params_dtype == torch.bfloat16


def test_fusions_that_move_log_probs_are_off():
    config = transformer_config(LlamaConfig(**SIZES), ModelConfig(dtype="float32"), ParallelConfig())
    assert not config.apply_rope_fusion and not config.bias_activation_fusion


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"recompute_granularity": None, "fp8": None}),
        ({"recompute": "selective"}, {"recompute_granularity": "selective", "recompute_modules": ["mlp"]}),
        ({"recompute": "full"}, {"recompute_granularity": "full", "recompute_method": "uniform"}),
        ({"fp8": "hybrid"}, {"fp8": "hybrid", "fp8_recipe": "delayed"}),
        ({"fp8": "e4m3", "fp8_recipe": "current"}, {"fp8": "e4m3", "fp8_recipe": "tensorwise"}),
        ({"fp8": "e4m3", "fp8_recipe": "blockwise"}, {"fp8": "e4m3", "fp8_recipe": "blockwise"}),
    ]
    + [({"fusions": [name]}, {SWITCHES[name]: True}) for name in names(Fusion) if name != "rope"],
)
def test_settings_reach_megatron(settings, expected):
    config = transformer_config(LlamaConfig(**SIZES), ModelConfig(dtype="float32", **settings), ParallelConfig())
    assert {name: getattr(config, name) for name in expected} == expected
    on = {switch for switch in SWITCHES.values() if getattr(config, switch)}
    assert on == {SWITCHES[name] for name in settings.get("fusions", [])}


def test_the_local_layers_refuse_the_rope_fusion():
    with pytest.raises(ValueError, match="model.fusions: rope is Transformer Engine's"):
        transformer_config(LlamaConfig(**SIZES), ModelConfig(dtype="float32", fusions=["rope"]), ParallelConfig())


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 10000.0}, LLAMA3_ROPE])
def test_rope_frequencies_equal_transformers(rope):
    config = LlamaConfig(**SIZES, head_dim=128, rope_parameters=rope, max_position_embeddings=131072)
    expected = LlamaRotaryEmbedding(config).inv_freq
    torch.testing.assert_close(rope_frequencies(config), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("vocab", "tensor", "padded"), [(101, 1, 101), (101, 2, 102), (128256, 8, 128256), (7, 4, 8)])
def test_vocabulary_is_padded_so_that_tensor_ranks_divide_it(vocab, tensor, padded):
    assert padded_vocab_size(vocab, tensor) == padded


@pytest.mark.parametrize(
    ("config", "model", "parallel", "message"),
    [
        (LlamaConfig(**SIZES, model_type="gpt2"), {}, {}, "model_type: found 'gpt2'"),
        (LlamaConfig(**SIZES), {"dtype": "float16"}, {}, "model.dtype is 'float16'"),
        (LlamaConfig(**SIZES, attention_bias=True), {}, {}, "attention_bias: found True"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), {}, {}, "hidden_act: found 'gelu'"),
        (LlamaConfig(**SIZES), {}, {"tensor": 4}, "4 does not divide the model's 2 key-value heads"),
        (LlamaConfig(**SIZES), {}, {"pipeline": 3}, "3 stages do not divide the model's 4 layers"),
        (
            LlamaConfig(**SIZES),
            {},
            {"pipeline": 2, "virtual_pipeline": 4},
            "2 stages × parallel.virtual_pipeline=4 do not divide the model's 4 layers",
        ),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            {},
            {},
            "rope_type 'linear'",
        ),
    ],
)
def test_what_cannot_be_built_faithfully_is_refused(config, model, parallel, message):
    if message.startswith("model_type:"):
        config.model_type = "gpt2"
    with pytest.raises(ValueError, match=message):
        transformer_config(config, ModelConfig(**{"dtype": "float32"} | model), ParallelConfig(**parallel))


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_transformer_engine_without_a_gpu_is_refused():
    assert spec_name(ModelConfig(spec="auto")) == "local"
    with pytest.raises(ValueError, match="needs a CUDA device"):
        spec_name(ModelConfig(spec="transformer_engine"))
    with pytest.raises(ValueError, match="expected auto, local or transformer_engine"):
        spec_name(ModelConfig(spec="te"))


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({"tensor": 0}, "parallel.tensor is 0"),
        ({"virtual_pipeline": 2}, "needs 2 stages or more"),
        ({"sequence": True}, "parallel.sequence is on with parallel.tensor=1"),
        ({"context": 2}, "parallel.context is 2"),
    ],
)
def test_layouts_that_cannot_run_are_refused(parallel, message):
    with pytest.raises(ValueError, match=message):
        check(ParallelConfig(**parallel))


def initialize_twice(first: dict, second: dict) -> str:
    initialize(ParallelConfig(**first), seed=1)
    try:
        initialize(ParallelConfig(**second), seed=1)
    except RuntimeError as error:
        return str(error)
    return ""


def test_initialize_is_repeatable_with_the_same_layout_only():
    assert spawn(initialize_twice, 2, {"tensor": 2}, {"tensor": 2}) == ["", ""]
    assert "already initialised" in spawn(initialize_twice, 2, {"tensor": 2}, {"data": 2})[0]


def test_a_layout_that_does_not_fit_the_ranks_is_refused():
    with pytest.raises(RuntimeError, match="= 4, but 2 ranks run"):
        spawn(initialize_twice, 2, {"tensor": 2, "data": 2}, {})


def marks(hf_config) -> list[dict[str, tuple]]:
    """What tensor parallelism knows of each parameter: as built here, and where Megatron draws the weights."""
    from alphamed_nemo.policy import model as built

    initialize(ParallelConfig(tensor=2))
    layout, settings = ParallelConfig(tensor=2), ModelConfig(dtype="float32")
    config = transformer_config(hf_config, settings, layout)
    assert not config.perform_initialization
    config.perform_initialization = True
    names = ("tensor_model_parallel", "partition_dim", "partition_stride")
    return [
        {name: tuple(getattr(each, mark, None) for mark in names) for name, each in chunk.named_parameters()}
        for chunk in (*built.build_model(hf_config, settings, layout), built._chunk(hf_config, settings, config, None))
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs Megatron draws the weights")
@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_that_are_not_drawn_are_marked_as_megatron_marks_them(family, tied):
    for found, expected in spawn(marks, 2, family(**SIZES, tie_word_embeddings=tied)):
        assert found == expected
        assert {mark[:2] for mark in found.values()} >= {(True, 0), (True, 1), (None, None)}
