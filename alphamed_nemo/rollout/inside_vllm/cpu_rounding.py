"""Rotary embedding and attention that round, where vLLM's CPU kernels cut float32 off to bfloat16.

Compiled for AVX2, or for AVX-512 without bfloat16, each of vLLM's own kernels ends in such a cut: its results are
smaller by half a unit in the last place on average. Products of matrices, by oneDNN and torch, round. The norms are in
`cpu_norm.py`; here the other two kernels work in float32, whose results torch rounds. The key-value cache is then in
float32 as well, since attention reads it in the dtype of the queries: half as many tokens fit into the same memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphamed_nemo.rollout.inside_vllm.replaced import replaces


def register() -> None:
    """Once a process, before vLLM builds a model. Models in float32 are computed as before."""
    from vllm.model_executor.layers.attention import attention
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
    from vllm.v1.attention.backends import cpu_attn

    replaces(RotaryEmbedding, "forward_cpu")(_rotate)
    replaces(attention, "kv_cache_dtype_str_to_dtype")(_cache_dtype)  # in this module alone, which imports the name
    replaces(cpu_attn.CPUAttentionMetadataBuilder, "__init__")(_build)
    replaces(cpu_attn.CPUAttentionBackendImpl, "forward")(_attend)
    replaces(cpu_attn.CPUAttentionBackendImpl, "do_kv_cache_update")(_update_cache)


def _rotate(original, self, positions: Tensor, query: Tensor, key: Tensor | None = None):
    if query.dtype == torch.float32:
        return original(self, positions, query, key)
    angles = getattr(self, "alphamed_angles", None)  # cosines and sines, rounded to bfloat16 as the trainer's are
    if angles is None:
        angles = self._match_cos_sin_cache_dtype(query).float()
        object.__setattr__(self, "alphamed_angles", angles)  # not a buffer of the module
    wide_query, wide_key = query.float(), None if key is None else key.float()
    torch.ops._C.rotary_embedding(positions, wide_query, wide_key, self.head_size, angles, self.is_neox_style)
    if key is not None and wide_key is not None:
        key.copy_(wide_key)
    return query.copy_(wide_query), key


def _cache_dtype(original, kv_cache_dtype: str, model_config) -> torch.dtype:
    return torch.float32 if kv_cache_dtype == "auto" else original(kv_cache_dtype, model_config)


def _build(original, self, kv_cache_spec, *args, **kwargs) -> None:
    original(self, kv_cache_spec, *args, **kwargs)
    self.dtype = kv_cache_spec.dtype


def _attend(original, self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs) -> Tensor:
    if query.dtype == kv_cache.dtype:
        return original(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
    inputs = (each.to(kv_cache.dtype) for each in (query, key, value))
    wide = torch.empty_like(output, dtype=kv_cache.dtype)
    original(self, layer, *inputs, kv_cache, attn_metadata, wide, *args, **kwargs)
    return output.copy_(wide)


def _update_cache(original, self, layer, key, value, kv_cache, slot_mapping) -> None:
    original(self, layer, key.to(kv_cache.dtype), value.to(kv_cache.dtype), kv_cache, slot_mapping)
