"""A Hugging Face folder into Megatron, in any tensor × pipeline layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state

from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.hf_folder import HfFolder
from alphamed_nemo.policy.weights.table import WeightTable
from alphamed_nemo.weight_files import check_weights


@torch.no_grad()
def load_hf(model_chunks: Sequence[torch.nn.Module], hf_config: Any, folder: str | Path) -> None:
    """Fills this rank's parameters from safetensors; every rank reads only its own slices.

    Values are cast to the parameters' type. Padding rows of the vocabulary become zero. With tied embeddings on two
    pipeline stages both copies are read from the embedding. Not collective. Call it before the optimizer is built, or
    call the optimizer's `reload_model_params()` afterwards: it keeps its own float32 copy.

    Args:
        model_chunks: Megatron GPTModels of this rank (also wrapped by DDP).
        hf_config: transformers' config of the folder.
        folder: one file or many with an index.

    Raises:
        ValueError: the folder, the config and the model do not fit; names the tensor.
    """
    table = WeightTable(hf_config)
    rank = parallel_state.get_tensor_model_parallel_rank()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    bound = bind(model_chunks, table)
    check_weights(folder, table.model)
    with HfFolder(folder) as files:
        for name, parameter, entry in ((b.name, b.parameter, b.entry) for b in bound):
            sources = [files.source(hf_name) for hf_name in entry.names]
            shard = entry.transform.shard(sources, rank, ranks, parameter.shape[0])
            if shard.shape != parameter.shape:
                raise ValueError(
                    f"Megatron parameter {name}: found shape {tuple(parameter.shape)} in the model, expected "
                    f"{tuple(shard.shape)} from {', '.join(entry.names)} on tensor-parallel rank {rank} of {ranks}"
                )
            parameter.data.copy_(shard)
