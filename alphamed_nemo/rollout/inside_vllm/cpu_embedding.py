"""The input embedding without a packed copy, which vLLM 0.32 makes on CPU for products that only a head computes."""

from __future__ import annotations

from functools import wraps

import torch


def register() -> None:
    """Once a process."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    original = UnquantizedEmbeddingMethod.process_weights_after_loading
    if getattr(original, "alphamed", False):
        return

    @wraps(original)
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        if isinstance(layer, ParallelLMHead):
            original(self, layer)
        else:
            layer.cpu_linear = torch.nn.functional.linear  # right where a model does multiply by it, only slower

    process_weights_after_loading.alphamed = True
    UnquantizedEmbeddingMethod.process_weights_after_loading = process_weights_after_loading
