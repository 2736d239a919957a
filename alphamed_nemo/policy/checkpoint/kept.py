"""Which checkpoints of a run are whole, and so are resumed from and count among those that are kept.

One that is not as it was written is passed over by name. It counts for nothing, and only its owner removes it.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch.distributed as dist

from alphamed_nemo.config.run_folder import step_of
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.policy.checkpoint.manifest import checkpoints_in
from alphamed_nemo.policy.checkpoint.tensors import on_rank0

logger = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"\.step_\d+\.(partial|replaced|removed)")


def latest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in a folder of checkpoints; None where there is none.

    Reads every byte of the newest one. With several ranks it is collective, and each reads its share.

    Damaged ones are passed over with a warning that names the file.

    Raises:
        CheckpointError: there are checkpoints and all are damaged: starting afresh would hide that.
    """
    refused = []
    for candidate in reversed(on_rank0(lambda: checkpoints_in(Path(folder)))):
        problems = damage(candidate)
        if not problems:
            return candidate
        refused.append(f"{candidate}: {'; '.join(problems)}")
        if not dist.is_initialized() or dist.get_rank() == 0:
            logger.warning("damaged checkpoint passed over: %s", refused[-1])
    if refused:
        raise CheckpointError(
            f"no whole checkpoint: {' | '.join(refused)}. Remove them to start from the base model, or set "
            "run.resume=false"
        )
    return None


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint, a sentence for each file; empty where it is whole, to the last byte.

    With several ranks it is collective: each reads its share, and all of them return the same.
    """
    if not dist.is_initialized():
        return manifest.damage(path)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, manifest.damage(path, share=(dist.get_rank(), len(everyone))))
    return sorted({problem for problems in everyone for problem in problems})


def best(folder: str | Path, among: Collection[Path] | None = None) -> Path | None:
    """The checkpoint with the highest accuracy in `validation`, or, where none was validated, with the highest mean
    `reward`; the newest of equals. None where none has either.

    Args:
        folder: of checkpoints.
        among: those that count; None: all whose files are there in their sizes.
    """
    scored: dict[str, list[tuple[float, int, Path]]] = {"validation": [], "reward": []}
    for path in _whole(Path(folder)) if among is None else among:
        try:
            state = manifest.read_state(path)
        except CheckpointError:  # damaged, which is for `latest` to say
            continue
        for measure, found in scored.items():
            value = state.get(measure)
            if isinstance(value, float | int) and math.isfinite(value):
                found.append((value, step_of(path), path))
    found = scored["validation"] or scored["reward"]
    return max(found)[2] if found else None


def passed_over(folder: str | Path, used: Path) -> list[Path]:
    """The checkpoints that are newer than the one that `latest` has found: the damaged ones."""
    return [path for path in checkpoints_in(Path(folder)) if step_of(path) > step_of(used)]


def prune(folder: str | Path, keep: int, needed: Collection[Path] = (), damaged: Collection[Path] = ()) -> list[Path]:
    """Removes all but the newest `keep` whole checkpoints, the best and the needed ones, and what an interrupted save
    left behind. A damaged one neither counts nor is removed: what it still holds is for its owner to judge.

    Not collective. Looks at names and sizes: to read every checkpoint at each save would take too long.

    Args:
        folder: of checkpoints.
        keep: how many.
        needed: kept whatever their number: the one that the run resumed from, the one just saved.
        damaged: known to be so by their checksums.

    Returns:
        The checkpoints that were removed.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"grpo.keep_checkpoints: found {keep}, expected 1 or more")
    folder = Path(folder)
    whole = [path for path in _whole(folder) if path not in damaged]
    kept = {*whole[-keep:], *needed, best(folder, among=whole)}
    removed = [path for path in whole if path not in kept]
    leftovers = [path for path in folder.glob(".step_*") if _UNFINISHED.fullmatch(path.name)]
    for path in (*leftovers, *removed):
        _remove(path)
    return removed


def _remove(path: Path) -> None:
    """By a rename first: one that is removed in part would count as damaged, and stay. A disk that refuses ends no run;
    the next prune tries again."""
    try:
        if not path.name.startswith("."):
            path = path.rename(path.with_name(f".{path.name}.removed"))
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s: not removed: %s", path, error)


def _whole(folder: Path) -> list[Path]:
    """Checkpoints whose manifest is intact and whose files have their sizes, oldest first."""
    return [path for path in checkpoints_in(folder) if not manifest.damage(path, checksums=False)]
