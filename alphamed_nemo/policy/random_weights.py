"""Random weights that are the same whatever the tensor × pipeline layout, to train a model from nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

from alphamed_nemo.policy.weights.binding import layer_numbers


@torch.no_grad()
def initialize_weights(chunks: Sequence[GPTModel], hf_config: Any, seed: int) -> None:
    """Draws matrices from N(0, initializer_range), as transformers does; norms become one and biases zero.

    Each matrix has a generator of its own, seeded by its name in the whole model, and each rank draws the whole matrix
    and keeps its part. Tied embeddings on two pipeline stages get the same name, and so the same numbers.

    Args:
        chunks: of this rank, not wrapped.
        hf_config: gives `vocab_size` and `initializer_range`; vocabulary padding becomes zero.
        seed: two seeds give unrelated weights.
    """
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(_draw(_name_in_model(name, chunk), parameter, hf_config, seed))


def _draw(name: str, parameter: torch.Tensor, hf_config: Any, seed: int) -> torch.Tensor:
    """This rank's part of the matrix `name`."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    dim = 1 if "linear_proj" in name or "linear_fc2" in name else 0  # row-parallel matrices are cut along their input
    shape = list(parameter.shape)
    shape[dim] *= ranks
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    if "embedding" in name or "output_layer" in name:
        whole = torch.zeros(shape)
        whole[: hf_config.vocab_size] = torch.randn(hf_config.vocab_size, shape[1], generator=generator)
    else:
        whole = torch.randn(shape, generator=generator)
    # The gate and the up projection lie one after the other in fc1, and each is cut by itself.
    pieces = whole.chunk(2, dim=0) if "linear_fc1" in name else (whole,)
    return torch.cat([piece.chunk(ranks, dim)[rank] for piece in pieces], dim=0) * hf_config.initializer_range


def _name_in_model(name: str, chunk: GPTModel) -> str:
    """The parameter's name without pipeline parallelism and, where embeddings are tied, the embedding's for both."""
    if name == "output_layer.weight" and chunk.share_embeddings_and_output_weights:
        return "embedding.word_embeddings.weight"
    parts = name.split(".")
    if parts[:2] == ["decoder", "layers"]:
        parts[2] = str(layer_numbers(chunk)[int(parts[2])] - 1)
    return ".".join(parts)
