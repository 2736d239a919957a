"""Checkpoints of the policy: model, optimizer, learning-rate schedule, random states, and the caller's own state.

A checkpoint is a folder `step_<n>` written by Megatron's dist_checkpointing in a form that any tensor × pipeline × data
layout can load:

    *.distcp, .metadata      tensors of model and optimizer, sharded
    common.pt, metadata.json hyper-parameters and schedule; Megatron's own description
    rng.pt                   random states of every rank
    state.json               the caller's state (step, data order)
    manifest.json            size and SHA-256 of every file

It is written under a temporary name and takes its own name only once it is complete and on the disk.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import megatron.core
import torch
import torch.distributed as dist

from alphamed_nemo.config.run_folder import STATE
from alphamed_nemo.policy.checkpoint import manifest, optimizer_state, rng_state
from alphamed_nemo.policy.checkpoint import tensors as checkpoint_tensors
from alphamed_nemo.policy.checkpoint.tensors import CheckpointError, on_rank0
from alphamed_nemo.policy.local.heap import HEAP
from alphamed_nemo.policy.weights.binding import unwrap

__all__ = ["CheckpointError", "best", "latest", "load", "passed_over", "prune", "save"]

logger = logging.getLogger(__name__)

RNG = "rng.pt"
_STEP = re.compile(r"step_(\d+)")
_UNFINISHED = re.compile(r"\.step_\d+\.(partial|replaced)")


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
    loaded = _load_into(policy, folder)
    if policy.optimizer is not None:
        optimizer_state.load_state(policy.optimizer, loaded["optimizer"])
    if policy.scheduler is not None:
        policy.scheduler.load_state_dict(loaded["scheduler"])
    del loaded  # the optimizer's state once more
    HEAP.give_back()
    rng_state.restore((folder / RNG).read_bytes())
    return json.loads((folder / STATE).read_text())


def latest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in a folder of checkpoints; None where there is none. Not collective: call it on one
    rank, since it reads every byte of the newest one.

    Damaged ones are passed over with a warning that names the file.

    Raises:
        CheckpointError: there are checkpoints and all are damaged: starting afresh would hide that.
    """
    refused = []
    for candidate in reversed(_steps(Path(folder))):
        problems = manifest.damage(candidate)
        if not problems:
            return candidate
        refused.append(f"{candidate}: {'; '.join(problems)}")
        logger.warning("damaged checkpoint passed over: %s", refused[-1])
    if refused:
        raise CheckpointError(
            f"no whole checkpoint: {' | '.join(refused)}. Remove them to start from the base model, or set "
            "run.resume=false"
        )
    return None


def best(folder: str | Path) -> Path | None:
    """The checkpoint whose state has the highest `reward`, the newest of equals; None where none has one."""
    scored = []
    for path in _steps(Path(folder)):
        try:
            reward = json.loads((path / STATE).read_text()).get("reward")
        except (OSError, ValueError):  # damaged, which is for `latest` to say
            continue
        if reward is not None:
            scored.append((reward, int(path.name.removeprefix("step_")), path))
    return max(scored)[2] if scored else None


def passed_over(folder: str | Path, used: Path) -> int:
    """How many checkpoints are newer than the one that `latest` has found: the damaged ones."""
    return len(_steps(Path(folder))) - 1 - _steps(Path(folder)).index(used)


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Removes all but the newest `keep` checkpoints and the best, and what an interrupted save left behind.

    Not collective.

    Returns:
        The checkpoints that were removed.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"grpo.keep_checkpoints: found {keep}, expected 1 or more")
    folder = Path(folder)
    steps = _steps(folder)
    kept = {*steps[-keep:], best(folder)}
    removed = [path for path in steps if path not in kept]
    leftovers = [path for path in folder.glob(".step_*") if _UNFINISHED.fullmatch(path.name)]
    for path in (*removed, *leftovers):
        shutil.rmtree(path)
    return removed


def _steps(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step_*") if path.is_dir() and _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _as_json(state: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(state)
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
    model = {
        name: checkpoint_tensors.of_model(unwrap(chunk))
        for name, chunk in zip(_names(policy), policy.model, strict=True)
    }
    state: dict[str, Any] = dict(model)
    if policy.optimizer is not None:
        state["optimizer"] = optimizer_state.sharded_state(policy.optimizer, model, loading)
    if policy.scheduler is not None and not loading:
        state["scheduler"] = policy.scheduler.state_dict()
    return state


def _load_into(policy: Saved, folder: Path) -> dict[str, Any]:
    """Fills the model and returns the loaded state dict."""
    problems = manifest.damage(folder, checksums=False)
    if problems:
        raise CheckpointError(f"{folder}: {'; '.join(problems)}")
    if policy.optimizer is not None and not manifest.read(folder)["optimizer"]:
        raise CheckpointError(
            f"{folder}: holds weights alone, without an optimizer's state, so training cannot resume from it. To start "
            "from these weights give their Hugging Face folder as model.path and set run.resume=false"
        )
    template = _sharded_state(policy, loading=True)
    loaded = checkpoint_tensors.read(template, folder, with_optimizer=policy.optimizer is not None)
    for name, chunk in zip(_names(policy), policy.model, strict=True):
        missing, unexpected = unwrap(chunk).load_state_dict(loaded[name], strict=False)
        left = [key for key in (*missing, *unexpected) if not key.endswith("_extra_state")]
        assert not left, left  # `read` has compared the names already
    return loaded


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
