"""Weights that no model holds out as Hugging Face tensors, a block of the table at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.table import WeightTable

Read = Callable[[list[str]], dict[str, Tensor]]  # whole weights by the names of a model's parameters


def stream_stored(skeleton: torch.nn.Module, hf_config: Any, read: Read) -> Iterator[tuple[str, Tensor]]:
    """As `stream_hf`, in one process: yields every Hugging Face tensor in the order of `hf_shapes(hf_config)`.

    Args:
        skeleton: the whole model in one piece, for its names.
        hf_config: transformers' config of the model.
        read: called once for the embedding, for each layer and for the head.

    Raises:
        ValueError: parameters and weight map do not fit.
    """
    table = WeightTable(hf_config)
    name_of = {bound.entry: bound.name for bound in bind([skeleton], table)}
    for block in table.blocks:
        held = read([name_of[entry] for entry in block.entries])
        for entry in block.entries:
            yield from entry.merge([held.pop(name_of[entry])])
