"""The sharded part of a checkpoint: Megatron's dist_checkpointing, made to fail on all ranks together."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.models.gpt.gpt_model import GPTModel
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.policy.checkpoint.known_classes import Common, Sharded, check_extra_state
from alphamed_nemo.policy.checkpoint.manifest import write_bytes
from alphamed_nemo.policy.lora import SUFFIX, adapters_of

T = TypeVar("T")

# Each layer under its own number and each local shard by itself: the form that reshards over all dimensions.
_METADATA = {"singleton_local_shards": True}


def of_model(chunk: GPTModel) -> dict[str, Any]:
    """The sharded state dict of a GPTModel, by the names of its parameters; its tensors are the parameters. Of a model
    with adapters theirs alone: nothing else of it changes."""
    state = chunk.sharded_state_dict(metadata=dict(_METADATA))
    adapters = tuple(f"{name}{SUFFIX}." for name in adapters_of(chunk))
    return {name: shard for name, shard in state.items() if name.startswith(adapters)} if adapters else state


def write(state: dict[str, Any], folder: Path) -> None:
    """Collective. Writes a sharded state dict.

    As dist_checkpointing.save, in the same format, with two differences: it writes in this process, where that one
    starts a process for each rank, and a rank that cannot write makes all of them fail, where the others would wait.

    Raises:
        CheckpointError: a rank could not write; on every rank.
    """
    sharded, common = save_preprocess(state)
    assert isinstance(sharded, dict)

    def describe() -> None:
        content = io.BytesIO()
        torch.save(common, content)
        write_bytes(folder / COMMON_STATE_FNAME, content.getvalue())
        save_config(CheckpointingConfig("torch_dist", 1), str(folder))

    on_rank0(describe)
    by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded, True)
    try:
        save(
            mcore_to_pyt_state_dict(by_key, False),
            storage_writer=Writer(folder, sync_files=True),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )
    except CheckpointException as error:
        raise CheckpointError(_reasons(error)) from error


class Writer(FileSystemWriter):
    """Torch's, with the operating system's own words where a disk refuses.

    torch.save fails a second time on its way out of a file that takes no more ("unexpected pos 704 vs 598").
    """

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read(template: dict[str, Any], folder: Path, with_optimizer: bool) -> dict[str, Any]:
    """Collective. Reads the shards that the template asks for; the model's tensors are filled in place.

    Raises:
        CheckpointError: the checkpoint and the template hold different tensors, or a file cannot be read.
    """
    loaded, unread, absent = _load(template, folder, StrictHandling.RETURN_ALL)
    # Transformer Engine's extra state (FP8 scales) has no place in a model of Megatron's local spec, and starts afresh
    # in a model of its own spec.
    unread = {key for key in unread if "_extra_state" not in key}
    if not with_optimizer:
        unread = {key for key in unread if not key.startswith("optimizer.")}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, absent)  # each rank asks for tensors of its own
    absent = {key for of_rank in everyone for key in of_rank if "_extra_state" not in key}
    refuse_misfit(folder, unread, absent)
    return loaded


def read_some(template: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Collective. As `read`, for a template of a few of the checkpoint's tensors.

    Raises:
        CheckpointError: the checkpoint lacks one of them or has it in another shape, or a file cannot be read.
    """
    loaded = _load(template, folder, StrictHandling.ASSUME_OK_UNEXPECTED)
    return {name: loaded[name] for name in template}  # the checkpoint's hyper-parameters come along


def refuse_misfit(folder: Path, unread: set[str], absent: set[str]) -> None:
    """Raises CheckpointError where there are tensors in the checkpoint alone or in the model alone."""
    if unread or absent:
        raise CheckpointError(
            f"{folder}: does not fit the model: only in the checkpoint: {sorted(unread)}; "
            f"only in the model: {sorted(absent)}"
        )


def stored_tensors(folder: Path) -> dict[str, Any]:
    """Name → shard without data of every tensor that a checkpoint holds.

    Raises:
        CheckpointError: its plan cannot be read.
    """
    try:
        return Sharded().load_tensors_metadata(folder)
    except Exception as error:  # whatever a file from elsewhere brings about
        raise CheckpointError(f"{folder}: .metadata: {type(error).__name__}: {error}") from error


def on_rank0(action: Callable[[], T]) -> T:
    """Collective. Runs on rank 0 and returns its value on every rank; where the disk refuses, every rank raises, so
    that none waits for it.

    Raises:
        CheckpointError: rank 0 met an OSError.
    """
    found: list[Any] = [None, None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            found[0] = action()
        except OSError as error:
            found[1] = str(error)
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise CheckpointError(found[1])
    return found[0]


def _load(template: dict[str, Any], folder: Path, strict: StrictHandling) -> Any:
    try:
        loaded = dist_checkpointing.load(template, str(folder), Sharded(), Common(), strict=strict)
        if find_spec("transformer_engine"):  # else nothing unpickles it
            for state in _extra_states(loaded):
                check_extra_state(state)
        return loaded
    except CheckpointException as error:
        raise CheckpointError(f"{folder}: {_reasons(error)}") from error
    except Exception as error:  # whatever a file from elsewhere brings about
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}") from error


def _extra_states(loaded: Any) -> Iterator[Any]:
    """What layers of Transformer Engine take over beside their weights."""
    state = loaded[0] if isinstance(loaded, tuple) else loaded
    for chunk in state.values():
        if isinstance(chunk, dict):
            yield from (value for name, value in chunk.items() if str(name).endswith("_extra_state"))


def _reasons(error: CheckpointException) -> str:
    return "; ".join(
        f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in sorted(error.failures.items())
    )
