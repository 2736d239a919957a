"""Reading a checkpoint without running what it may bring along: pickles are limited to the classes that they need.

torch keeps the plan of a sharded checkpoint (`.metadata`) as a pickle and reads its small objects without
`weights_only`; a pickle calls whatever it names. Here, each is read by a list of names, and any other is refused. The
same holds for what Transformer Engine pickles itself, which it unpickles once it is given its state.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import CheckpointingException, ShardedStateDict, StateDict
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME, TorchCommonLoadStrategy
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

_PLAN = (
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
)
_KNOWN = {
    *(("torch.distributed.checkpoint.metadata", name) for name in _PLAN),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),  # looks a name up
    ("torch", "Size"),
    *(("torch", str(each).removeprefix("torch.")) for each in vars(torch).values() if isinstance(each, torch.dtype)),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
_FP8_RECIPES = "transformer_engine.common.recipe"


class RestrictedUnpickler(pickle.Unpickler):
    """Knows what torch writes into `.metadata`, and what Transformer Engine keeps for FP8.

    Raises:
        pickle.UnpicklingError: for any other name, before it is imported.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return super().find_class(module, name)
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if module == _FP8_RECIPES and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not one of the classes that a checkpoint consists of")


def _storage(content: bytes) -> Any:
    """As torch.storage._load_from_bytes, which reads any pickle."""
    return torch.load(io.BytesIO(content), weights_only=True)


def check_extra_state(state: Any) -> None:
    """What a layer of Transformer Engine is about to unpickle: its FP8 scales, as a tensor of bytes or torch's file.

    Raises:
        pickle.UnpicklingError: it holds something else.
    """
    if isinstance(state, torch.Tensor) and state.numel():
        RestrictedUnpickler(io.BytesIO(state.cpu().numpy().tobytes())).load()
    elif isinstance(state, io.BytesIO) and state.getbuffer().nbytes:
        torch.load(io.BytesIO(state.getvalue()), weights_only=True)


class Reader(FileSystemReader):
    """torch's, with the plan read by the list of known classes, once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._metadata: Metadata | None = None

    # Without torch's `**kwargs`: by them it would look for the plans of single ranks, which are not written.
    def read_metadata(self) -> Metadata:
        if self._metadata is None:
            with open(self._get_metadata_path(), "rb") as file:
                found = RestrictedUnpickler(file).load()
            if not isinstance(found, Metadata):
                raise pickle.UnpicklingError(f"found {type(found).__name__}, expected the plan of a checkpoint")
            for stored in found.storage_data.values():
                if Path(stored.relative_path).name != stored.relative_path:
                    raise pickle.UnpicklingError(f"{stored.relative_path!r} is not a file of the checkpoint")
            found.storage_meta = found.storage_meta or StorageMeta()
            found.storage_meta.load_id = self.load_id
            self._metadata = found
        return self._metadata


class Planner(megatron_torch.MCoreLoadPlanner):
    """Megatron's, with objects read as weights are."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        held = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], held)


class Sharded(megatron_torch.TorchDistLoadShardedStrategy):
    """Megatron's way to load shards, with the reader and the planner of this file."""

    def load(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: Path) -> StateDict:
        tensors = [
            shard
            for shard in megatron_torch.nested_values(sharded_state_dict)
            if isinstance(shard, megatron_torch.ShardedTensor)
        ]
        by_key, flat, renamed = megatron_torch._replace_state_dict_keys_with_sharded_keys(sharded_state_dict)
        state: dict[str, Any] = megatron_torch.mcore_to_pyt_state_dict(by_key, True)
        planner = Planner(
            shapes_validation_sharded_tensors=[shard for shard in tensors if not shard.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors={shard.key: shard for shard in tensors if shard.allow_shape_mismatch},
        )
        load(state, storage_reader=Reader(checkpoint_dir), planner=planner)
        loaded: dict[str, Any] = {key: megatron_torch._unwrap_pyt_sharded_tensor(value) for key, value in state.items()}
        loaded = megatron_torch._replace_sharded_keys_with_state_dict_keys(loaded, flat, renamed)
        megatron_torch._restore_dict_types(loaded, sharded_state_dict)
        return loaded

    def load_tensors_metadata(self, checkpoint_dir: Path, metadata: Metadata | None = None) -> dict[str, Any]:
        return super().load_tensors_metadata(checkpoint_dir, metadata or Reader(checkpoint_dir).read_metadata())

    def load_sharded_metadata(self, checkpoint_dir: Path) -> ShardedStateDict:
        metadata = Reader(checkpoint_dir).read_metadata()
        objects = [
            megatron_torch.ShardedObject.empty_from_unique_key(key)
            for key, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, megatron_torch.BytesStorageMetadata)
        ]
        return {each.unique_key: each for each in objects} | self.load_tensors_metadata(checkpoint_dir, metadata)


class Common(TorchCommonLoadStrategy):
    """Megatron's way to load what is not sharded, whatever the environment says of `weights_only`."""

    def load_common(self, checkpoint_dir: str | Path) -> StateDict:
        found = torch.load(Path(checkpoint_dir, COMMON_STATE_FNAME), map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise CheckpointingException(f"{COMMON_STATE_FNAME}: found {type(found).__name__}, expected a dictionary")
        return found
