"""The weights of a checkpoint of any layout, read a few at a time into one process that never holds the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, apply_factories
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.policy.checkpoint import tensors as checkpoint_tensors
from alphamed_nemo.policy.checkpoint.tensors import CheckpointError
from alphamed_nemo.policy.model import padded_vocab_size


class CheckpointWeights:
    """Megatron itself says where each weight lies (its sharded state dict of the model's skeleton) and reads it.

    Args:
        skeleton: from `build_skeleton`; only its names and shapes are used.
        folder: the checkpoint.

    Raises:
        CheckpointError: the folder is damaged (sizes are compared, checksums are not), or holds another model.
    """

    def __init__(self, skeleton: GPTModel, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest.refuse_damaged(self.folder)
        shards = checkpoint_tensors.of_model(skeleton).items()
        self._shards = {name: shard for name, shard in shards if not name.endswith("_extra_state")}
        self._check()

    def read(self, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Whole weights by the names of the skeleton's parameters; on the CPU, vocabulary padding removed.

        Holds two copies of the largest one while it reads: the stored one and the one that it returns.

        Raises:
            CheckpointError: a file cannot be read.
        """
        return checkpoint_tensors.read_some({name: in_memory(self._shards[name], dtype) for name in names}, self.folder)

    def _check(self) -> None:
        """Compares names and shapes before anything is read."""
        needed = without_factories(self._shards)
        stored = checkpoint_tensors.stored_tensors(self.folder)
        found = {key for key in stored if not key.startswith("optimizer.")}
        checkpoint_tensors.refuse_misfit(self.folder, found - needed.keys(), needed.keys() - found)
        ranks = manifest.read(self.folder)["layout"]["tensor"]
        for key, shard in needed.items():
            rows, *others = shard.global_shape
            if shard.allow_shape_mismatch:  # Megatron's mark of the embedding and the output, which it pads
                rows = padded_vocab_size(rows, ranks)
            if stored[key].global_shape != (rows, *others):
                raise CheckpointError(
                    f"{self.folder}: {key}: found shape {tuple(stored[key].global_shape)}, the model has "
                    f"{(rows, *others)}: this is a checkpoint of another model"
                )


def in_memory(shard: ShardedTensor | ShardedTensorFactory, dtype: torch.dtype) -> ShardedTensor | ShardedTensorFactory:
    """The shard (or the factory of gate and up) with memory to be read into."""
    assert shard.data is not None, "the skeleton's parameters are on the meta device"
    changed: dict[str, Any] = {"data": torch.empty(shard.data.shape, dtype=dtype)}
    if isinstance(shard, ShardedTensor):
        changed["dtype"] = dtype
    return replace(shard, **changed)


def without_factories(shards: dict[str, Any]) -> dict[str, Any]:
    """The shards by the keys under which they are stored, where gate and up are two tensors."""
    built = dict(shards)
    apply_factories(built)
    return {shard.key: shard for shard in nested_values(built)}
