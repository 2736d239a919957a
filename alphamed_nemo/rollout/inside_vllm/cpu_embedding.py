"""The input embedding without a packed copy, which vLLM 0.32 makes on CPU for products that only a head computes."""

from __future__ import annotations

import torch

from alphamed_nemo.rollout.inside_vllm.replaced import replaces


def register() -> None:
    """Once a process."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    @replaces(UnquantizedEmbeddingMethod, "process_weights_after_loading")
    def process_weights_after_loading(original, self: UnquantizedEmbeddingMethod, layer: torch.nn.Module) -> None:
        if isinstance(layer, ParallelLMHead):
            original(self, layer)
        else:
            # Right where a model does multiply by it, only slower. Neither a parameter nor a module of the layer.
            object.__setattr__(layer, "cpu_linear", torch.nn.functional.linear)
