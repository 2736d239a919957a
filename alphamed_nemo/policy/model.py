"""Builds Megatron-Core's GPTModel from a transformers config: Llama 3.x, Qwen2.5 and Qwen3."""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict, TypeVar

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_layer_local_spec
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.config.choices import Fp8Recipe, Recompute
from alphamed_nemo.config.layout import check_layout
from alphamed_nemo.families import Dimensions, dimensions
from alphamed_nemo.policy.float32_head import compute_in_float32
from alphamed_nemo.policy.gpt import PolicyGPTModel
from alphamed_nemo.policy.local.attention import PackedAttention
from alphamed_nemo.policy.local.operators import PackedRMSNorm, SwiGLU
from alphamed_nemo.policy.rotary import with_rotation

T = TypeVar("T")


class _Recompute(TypedDict, total=False):
    """Megatron's settings."""

    recompute_granularity: Literal["full", "selective"]
    recompute_method: Literal["uniform", "block"]
    recompute_modules: list[str]
    recompute_num_layers: int


RECOMPUTE: dict[Recompute, _Recompute] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
FP8_RECIPES: dict[Fp8Recipe, Literal["delayed", "tensorwise", "blockwise"]] = {  # ours → Megatron's
    "delayed": "delayed",
    "current": "tensorwise",
    "blockwise": "blockwise",
}
_DIVIDED = {VocabParallelEmbedding: 0, ColumnParallelLinear: 0, RowParallelLinear: 1}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_model(
    hf_config: Any, model: ModelConfig, parallel: ParallelConfig, norms_apart: bool = False
) -> list[PolicyGPTModel]:
    """This rank's part of the model, whose weights are still to be set; `policy.runtime.initialize` comes before.

    Args:
        hf_config: transformers' config of a model that `alphamed_nemo/families.py` knows.
        model: dtype and layer spec; `max_length` does not limit what can be run.
        parallel: the layout that `initialize` was given.
        norms_apart: no norm is inside the linear layer that follows it, as Transformer Engine's are: an adapter beside
            the layer needs what comes out of the norm.

    Returns:
        One chunk, or `parallel.virtual_pipeline` of them, in the order of Megatron's interleaved schedule. The
        parameters are on this rank's device, in `model.dtype`.

    Raises:
        ValueError: the model, the spec and the layout do not fit together.
    """
    config = transformer_config(hf_config, model, parallel)
    chunks = [
        _chunk(hf_config, model, config, stage if parallel.virtual_pipeline else None, norms_apart)
        for stage in range(parallel.virtual_pipeline or 1)
    ]
    for chunk in chunks:
        _mark_parallel(chunk)
        chunk.rotary_pos_emb.inv_freq = rope_frequencies(hf_config)
        if chunk.post_process and model.head_dtype == "float32":
            compute_in_float32(chunk.output_layer)
        if torch.cuda.is_available():
            chunk.cuda()
    return chunks


def build_skeleton(hf_config: Any) -> PolicyGPTModel:
    """The whole model in one piece and without its weights: the parameters, float32, are on the meta device.

    It has Megatron's names, shapes and code, and takes no memory. `policy.runtime.initialize` comes before, for one
    process.

    Raises:
        ValueError: a model that Megatron would build differently.
    """
    model = ModelConfig(dtype="float32", spec="local")
    config = transformer_config(hf_config, model, ParallelConfig())
    config.use_cpu_initialization = True  # else Megatron names the GPU as the place of every parameter
    config.perform_initialization = False
    with torch.device("meta"):
        skeleton = _chunk(hf_config, model, config, None)
    skeleton.rotary_pos_emb.inv_freq = rope_frequencies(hf_config)
    return skeleton


def transformer_config(hf_config: Any, model: ModelConfig, parallel: ParallelConfig) -> TransformerConfig:
    """Maps a transformers config to Megatron's.

    Fusions are off unless `model.fusions` names them: with those of rotary embedding and of bias and activation the
    trainer's log-probabilities drift from the rollout engine's (NeMo-RL issue 1801).

    Raises:
        ValueError: a model that Megatron would build differently, or a layout that does not divide it.
    """
    sizes = dimensions(hf_config)
    _check(sizes, model, parallel)
    dtype = DTYPES[model.dtype]
    implementation = spec_name(model)
    local = implementation == "local"
    if local and "rope" in model.fusions:
        raise ValueError(
            "model.fusions: rope is Transformer Engine's, and the local layers turn queries and keys themselves; "
            "leave it out, or set model.spec=transformer_engine"
        )
    return TransformerConfig(
        num_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.heads,
        num_query_groups=sizes.groups,
        kv_channels=sizes.head_dim,
        ffn_hidden_size=sizes.features,
        normalization="RMSNorm",
        layernorm_epsilon=hf_config.rms_norm_eps,
        activation_func=F.silu,
        gated_linear_unit=True,
        # Whatever its name says: the module that `_layer_spec` puts there.
        use_te_activation_func="bias_activation" not in model.fusions,
        add_bias_linear=False,
        add_qkv_bias=sizes.family.qkv_bias,
        qk_layernorm=sizes.family.qk_norm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        init_method_std=hf_config.initializer_range,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        use_cpu_initialization=not torch.cuda.is_available(),
        # The weights are loaded, or drawn in a way that no layout changes. On CPU Megatron would first draw, on every
        # rank, the whole of each matrix in float32.
        perform_initialization=torch.cuda.is_available(),
        transformer_impl=implementation,
        apply_rope_fusion="rope" in model.fusions,
        bias_activation_fusion="bias_activation" in model.fusions,
        bias_dropout_fusion="bias_dropout" in model.fusions,
        masked_softmax_fusion="masked_softmax" in model.fusions,
        gradient_accumulation_fusion="gradient_accumulation" in model.fusions,
        **RECOMPUTE[model.recompute],
        fp8=model.fp8 or None,
        fp8_recipe=FP8_RECIPES[model.fp8_recipe] if model.fp8 else "delayed",
        batch_p2p_comm=torch.cuda.is_available(),  # gloo has no batched send and receive
        deallocate_pipeline_outputs=True,
        # The loss functions return sums over global counts, so Megatron must neither divide the loss by the number of
        # micro-batches nor average gradients over data-parallel ranks. `step.py` uses this switch; see there.
        calculate_per_token_loss=True,
    )


def spec_name(model: ModelConfig) -> Literal["local", "transformer_engine"]:
    """ "transformer_engine" or "local", from `model.spec` and from what this machine has.

    Raises:
        ValueError: Transformer Engine is asked for where it is not installed or there is no GPU.
    """
    from megatron.core.models.gpt.gpt_layer_specs import HAVE_TE

    if model.spec == "local" or (model.spec == "auto" and not torch.cuda.is_available()):
        return "local"
    if model.spec not in ("auto", "transformer_engine"):
        raise ValueError(f"model.spec is {model.spec!r}; expected auto, local or transformer_engine")
    if not torch.cuda.is_available():
        raise ValueError("model.spec=transformer_engine needs a CUDA device and there is none: set model.spec=local")
    if not HAVE_TE:
        raise ValueError(
            f"model.spec={model.spec} on a GPU needs Transformer Engine, which cannot be imported: install it, or set "
            "model.spec=local for Megatron's own layers (slower)"
        )
    return "transformer_engine"


def padded_vocab_size(vocab_size: int, tensor: int) -> int:
    """The vocabulary rounded up so that the tensor ranks divide it; the ids beyond `vocab_size` are never real."""
    return math.ceil(vocab_size / tensor) * tensor


def rope_frequencies(hf_config: Any) -> torch.Tensor:
    """Inverse frequencies [head dimension / 2] of the rotary embedding, float32.

    Computed here because Megatron's own scaling knows the factor of Llama 3.1 only, not the other three parameters.

    Source: the "llama3" scaling of Llama 3.1, as in transformers' modeling_rope_utils.
    """
    rope = hf_config.rope_parameters
    dim = dimensions(hf_config).head_dim
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    if rope["rope_type"] == "default":
        return frequencies
    wavelength = 2 * math.pi / frequencies
    context, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    # Long waves are slowed down by the factor, short ones stay, those between are mixed.
    kept = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / rope["factor"] + kept * frequencies


def _chunk(
    hf_config: Any, model: ModelConfig, config: TransformerConfig, vp_stage: int | None, norms_apart: bool = False
) -> PolicyGPTModel:
    return PolicyGPTModel(
        config=config,
        # Megatron's annotation leaves out the whole block's spec, which its own builders return and its decoder takes.
        transformer_layer_spec=_layer_spec(config, vp_stage, norms_apart),  # pyright: ignore[reportArgumentType]
        vocab_size=padded_vocab_size(hf_config.vocab_size, config.tensor_model_parallel_size),
        max_sequence_length=model.max_length,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        parallel_output=True,
        share_embeddings_and_output_weights=dimensions(hf_config).tied,
        position_embedding_type="rope",
        rotary_base=hf_config.rope_parameters["rope_theta"],
        vp_stage=vp_stage,
    )


def _mark_parallel(chunk: PolicyGPTModel) -> None:
    """Says of each matrix along which dimension the tensor ranks divide it, as Megatron does where it draws them.

    The gradient's norm counts a parameter without this mark on one tensor rank only.
    """
    for name, module in chunk.named_modules():
        dim = _DIVIDED.get(type(module))
        if dim is not None and module.weight is not None and not hasattr(module.weight, "tensor_model_parallel"):
            stride = 2 if name.endswith("linear_fc1") else 1  # gate and up, each divided by itself
            set_tensor_model_parallel_attributes(module.weight, True, dim, stride)


def _layer_spec(config: TransformerConfig, vp_stage: int | None, norms_apart: bool) -> TransformerBlockSubmodules:
    if config.transformer_impl == "transformer_engine":
        block = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
        assert block.layer_specs
        layer = block.layer_specs[0]
        assert all(each is layer for each in block.layer_specs), "a dense model's layers share one spec"
        parts = _parts(layer, TransformerLayerSubmodules)
        attention = _parts(parts.self_attention, SelfAttentionSubmodules)
        if not config.apply_rope_fusion:
            assert isinstance(attention.core_attention, type)
            attention.core_attention = with_rotation(attention.core_attention)
        if config.use_te_activation_func:
            _parts(parts.mlp, MLPSubmodules).activation_func = SwiGLU
        if norms_apart:
            _set_norms_apart(parts)
        return block
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    parts = _parts(layer, TransformerLayerSubmodules)
    parts.input_layernorm = parts.pre_mlp_layernorm = PackedRMSNorm
    attention = _parts(parts.self_attention, SelfAttentionSubmodules)
    attention.core_attention = ModuleSpec(module=PackedAttention)
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = PackedRMSNorm
    _parts(parts.mlp, MLPSubmodules).activation_func = SwiGLU
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=ModuleSpec(module=PackedRMSNorm))


def _set_norms_apart(layer: TransformerLayerSubmodules) -> None:
    """Transformer Engine's layers with a norm and a linear layer in the place of one that is both."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm

    layer.input_layernorm = layer.pre_mlp_layernorm = TENorm
    _parts(layer.self_attention, SelfAttentionSubmodules).linear_qkv = TEColumnParallelLinear
    _parts(layer.mlp, MLPSubmodules).linear_fc1 = TEColumnParallelLinear


def _parts(spec: object, kind: type[T]) -> T:
    assert isinstance(spec, ModuleSpec) and isinstance(spec.submodules, kind), f"not a spec with {kind.__name__}"
    return spec.submodules


def _check(sizes: Dimensions, model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raises ValueError for a dtype or a layout that cannot be built; `dimensions` has refused other models."""
    if model.dtype not in DTYPES:
        raise ValueError(f"model.dtype is {model.dtype!r}; expected one of {', '.join(DTYPES)}")
    check_layout(parallel, sizes.heads, sizes.groups, sizes.features, sizes.layers)
