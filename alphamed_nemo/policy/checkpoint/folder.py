"""Checkpoints of the policy: model, optimizer, learning-rate schedule, random states, and the caller's own state.

A checkpoint is a folder `step_<n>` written by Megatron's dist_checkpointing in a form that any tensor × pipeline × data
layout can load:

    *.distcp, .metadata      tensors of model and optimizer, sharded; with LoRA those of the adapters alone
    common.pt, metadata.json hyper-parameters and schedule; Megatron's own description
    rng.pt                   random states of every rank
    state.json               the caller's state (step, data order)
    manifest.json            size and SHA-256 of every file, and of itself

It is written under a temporary name and takes its own name only once it is complete and on the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import megatron.core
import torch
import torch.distributed as dist

from alphamed_nemo.config.run_folder import STATE
from alphamed_nemo.policy.checkpoint import manifest, optimizer_state, rng_state
from alphamed_nemo.policy.checkpoint import tensors as checkpoint_tensors
from alphamed_nemo.policy.checkpoint.kept import best, damage, latest, passed_over, prune
from alphamed_nemo.policy.checkpoint.manifest import RNG, read_state
from alphamed_nemo.policy.checkpoint.tensors import CheckpointError, on_rank0
from alphamed_nemo.policy.local.heap import HEAP
from alphamed_nemo.policy.lora import adapter_settings
from alphamed_nemo.policy.optimizer import gather_weights
from alphamed_nemo.policy.weights.binding import unwrap

__all__ = ["STATE", "CheckpointError", "best", "damage", "latest", "load", "passed_over", "prune", "read_state", "save"]


class Saved(Protocol):
    """What of the policy goes into a checkpoint."""

    @property
    def model(self) -> Sequence[torch.nn.Module]:
        """Megatron's model chunks, also wrapped by DDP."""
        ...

    optimizer: Any  # MegatronOptimizer, or None
    scheduler: Any  # OptimizerParamScheduler, or None


def save(policy: Saved, folder: str | Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint. Collective over all ranks.

    Args:
        policy: its chunks, optimizer and scheduler.
        folder: `<checkpoints>/step_<n>`, on a disk that all ranks see; replaced if it is there.
        state: the caller's, plain JSON; rank 0's is kept.

    Raises:
        ValueError: `state` would not come back from JSON as it is.
        CheckpointError: it could not be written, on every rank; older checkpoints are untouched.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    text = _as_json(state)
    random_states = rng_state.capture()

    def start() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest.write_bytes(partial / STATE, text)
        assert random_states is not None, "rank 0 has those of all ranks"
        manifest.write_bytes(partial / RNG, random_states)

    def finish(digests: dict[str, str]) -> None:
        versions = {"torch": torch.__version__, "megatron": megatron.core.__version__}
        dtype = str(next(unwrap(policy.model[0]).parameters()).dtype).removeprefix("torch.")
        about = {"optimizer": policy.optimizer is not None, "dtype": dtype, "layout": rng_state.layout(), **versions}
        if lora := adapter_settings(policy.model[0]):
            about["lora"] = asdict(lora)
        manifest.write(partial, digests, about)
        _publish(partial, folder)

    try:
        on_rank0(start)
        checkpoint_tensors.write(_sharded_state(policy, loading=False), partial)
        digests = _digests(partial)
        on_rank0(lambda: finish(digests))
    except CheckpointError as error:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: not written: {error}. Older checkpoints are untouched. Free disk space, or keep fewer "
            "checkpoints (grpo.keep_checkpoints)"
        ) from error
    finally:
        HEAP.give_back()


def load(policy: Saved, folder: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of any layout into this one. Collective over all ranks.

    Random states come back only in the layout that saved them; in another one it logs a warning.

    Returns:
        The state given to `save`.

    Raises:
        CheckpointError: the folder is damaged, or does not fit the model.
    """
    folder = Path(folder)
    try:
        loaded = _load_into(policy, folder)
        if policy.optimizer is not None:
            optimizer_state.load_state(policy.optimizer, loaded["optimizer"])
        if policy.scheduler is not None:
            policy.scheduler.num_steps = 0  # Megatron adds the checkpoint's to those that it has
            policy.scheduler.load_state_dict(loaded["scheduler"])
        del loaded  # the optimizer's state once more
        HEAP.give_back()
        rng_state.restore((folder / RNG).read_bytes())
        return read_state(folder)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a file from elsewhere brings about
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}") from error


def _as_json(state: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoint state: {error}; expected plain JSON values") from error
    for key, value in json.loads(text).items():
        if value != state.get(key):
            raise ValueError(f"checkpoint state {key!r} would come back from JSON changed; use lists and string keys")
    return text.encode()


def _names(policy: Saved) -> list[str]:
    """Megatron's names of the model chunks in a state dict."""
    return ["model"] if len(policy.model) == 1 else [f"model{i}" for i in range(len(policy.model))]


def _sharded_state(policy: Saved, loading: bool) -> dict[str, Any]:
    """What is saved, or the template to load into, in dist_checkpointing's terms."""
    if not loading:
        gather_weights(policy.model)
    model = {
        name: checkpoint_tensors.of_model(unwrap(chunk))
        for name, chunk in zip(_names(policy), policy.model, strict=True)
    }
    state: dict[str, Any] = dict(model)
    if policy.optimizer is not None:
        if not loading:
            optimizer_state.share_weights(policy.optimizer, model)
        state["optimizer"] = optimizer_state.sharded_state(policy.optimizer, model, loading)
    if policy.scheduler is not None and not loading:
        state["scheduler"] = policy.scheduler.state_dict()
    return state


def _load_into(policy: Saved, folder: Path) -> dict[str, Any]:
    """Fills the model and returns the loaded state dict."""
    manifest.refuse_damaged(folder)
    if policy.optimizer is not None and not manifest.read(folder)["optimizer"]:
        raise CheckpointError(
            f"{folder}: holds weights alone, without an optimizer's state, so training cannot resume from it. To start "
            "from these weights give their Hugging Face folder as model.path and set run.resume=false"
        )
    _check_adapters(policy, folder)
    template = _sharded_state(policy, loading=True)
    asked = {key for name in _names(policy) for key in template[name]}  # without what is frozen beside adapters
    loaded = checkpoint_tensors.read(template, folder, with_optimizer=policy.optimizer is not None)
    for name, chunk in zip(_names(policy), policy.model, strict=True):
        missing, unexpected = unwrap(chunk).load_state_dict(loaded[name], strict=False)
        left = [key for key in (*asked.intersection(missing), *unexpected) if not key.endswith("_extra_state")]
        assert not left, left  # `read` has compared the names already
    return loaded


def _check_adapters(policy: Saved, folder: Path) -> None:
    """That a checkpoint holds what the policy trains: adapters of the same settings, or all weights."""
    stored, here = manifest.read(folder).get("lora"), adapter_settings(policy.model[0])
    if stored != (here and asdict(here)):
        found = (
            " and ".join(f"{name} {value}" for name, value in (stored or {}).items()) or "all weights and no adapters"
        )
        raise CheckpointError(f"{folder}: holds {found}; set lora.rank, lora.alpha and lora.targets as they were")


def _digests(folder: Path) -> dict[str, str]:
    """Collective. SHA-256 of every file in the folder, each rank reading its share."""
    names: list[Any] = [manifest.files_of(folder)] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(names, src=0)
    mine = {name: manifest.digest(folder / name) for name in names[0][dist.get_rank() :: dist.get_world_size()]}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: value for part in everyone for name, value in part.items()}


def _publish(partial: Path, folder: Path) -> None:
    """The complete checkpoint takes its name; one of that name makes room."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    partial.rename(folder)
    manifest.sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
