"""Small random Hugging Face models of the supported families, and the policy's logits for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from alphamed_nemo.policy.local.attention import SegmentParams

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _config(kind: type, heads: int, kv_heads: int, vocab: int, tied: bool, **more: Any) -> PretrainedConfig:
    return kind(
        hidden_size=heads * 8,
        intermediate_size=heads * 8 + 16,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        **more,
    )


# Vocabularies that 2 divides and does not divide; groups of 1, 2, 3 and 5 query heads.
CONFIGS = {
    "llama": _config(LlamaConfig, 4, 2, 64, tied=False),
    "llama-tied-odd-vocabulary": _config(LlamaConfig, 6, 2, 71, tied=True),
    "llama-scaled-rope": _config(LlamaConfig, 4, 4, 65, tied=False, rope_parameters=LLAMA3_ROPE),
    "llama-scaled-rope-tied": _config(LlamaConfig, 10, 2, 64, tied=True, rope_parameters=LLAMA3_ROPE),
    "qwen2": _config(Qwen2Config, 6, 2, 67, tied=False),
    "qwen2-tied": _config(Qwen2Config, 4, 2, 64, tied=True),
    "qwen3": _config(Qwen3Config, 4, 2, 69, tied=False, head_dim=16),
    "qwen3-tied": _config(Qwen3Config, 4, 4, 64, tied=True, head_dim=16),
}


def write_model(folder: Path, name: str, seed: int = 0, **save: Any) -> Path:
    """Writes a model of `CONFIGS` in float32, every parameter random: norms around 1, biases not zero."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in key else 0.15 * noise)
    model.save_pretrained(folder, **save)
    return folder


def megatron_logits(chunks: list[Any], vocab: int, sequences: list[list[int]]) -> Tensor | None:
    """Logits [T, vocabulary] of the sequences end to end, on the last pipeline stage; None on the other stages.

    One pass through the stages with plain sends: no schedule of Megatron's takes part.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()
    packed = SegmentParams.of(bounds, int(lengths.max()))
    tokens = torch.tensor([sum(sequences, [])])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    logits = None
    with torch.no_grad():
        for step in range(stages * len(chunks)):
            if step % stages != stage:
                continue
            chunk = chunks[step // stages]
            hidden = torch.empty(tokens.shape[1], 1, chunk.config.hidden_size)
            if not chunk.pre_process:
                dist.recv(hidden, src=parallel_state.get_pipeline_model_parallel_prev_rank())
                chunk.set_input_tensor(hidden)
            out = chunk(tokens, positions, None, packed_seq_params=packed)
            if chunk.post_process:
                logits = _gather_vocabulary(out[0])[:, :vocab]
            else:
                dist.send(out.contiguous(), dst=parallel_state.get_pipeline_model_parallel_next_rank())
    return logits


def _gather_vocabulary(part: Tensor) -> Tensor:
    parts = [torch.empty_like(part) for _ in range(parallel_state.get_tensor_model_parallel_world_size())]
    dist.all_gather(parts, part.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return torch.cat(parts, dim=-1)
