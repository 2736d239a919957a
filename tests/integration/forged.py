"""Checkpoints whose manifest fits what is in them, whatever that is: as one gets them from elsewhere."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphamed_nemo.policy.checkpoint import manifest


class Evil:
    """Writes a file as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def sign(folder: Path) -> None:
    """Writes the manifest anew, with the checksums that the files now have."""
    content = json.loads((folder / manifest.NAME).read_bytes())
    about = {key: content[key] for key in content if key not in ("files", "sha256")}
    manifest.write(folder, {name: manifest.digest(folder / name) for name in manifest.files_of(folder)}, about)


def saved(value: Any) -> bytes:
    """As torch.save writes it."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _plan(folder: Path, evil: Evil) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(evil))


def _part_of_the_plan(folder: Path, evil: Evil) -> None:
    plan = pickle.loads((folder / ".metadata").read_bytes())
    plan.planner_data = evil
    (folder / ".metadata").write_bytes(pickle.dumps(plan))


def _common(folder: Path, evil: Evil) -> None:
    (folder / "common.pt").write_bytes(saved({"optimizer": evil}))


def _random_states(folder: Path, evil: Evil) -> None:
    (folder / "rng.pt").write_bytes(saved({"layout": evil, "ranks": [evil]}))


def _index(plan: Any, kind: str) -> Any:
    """The first item of the model itself of this kind."""
    return next(index for index in plan.storage_data if kind in index.fqn and not index.fqn.startswith("optimizer."))


def _item(folder: Path, evil: Evil, kind: str) -> None:
    """What the plan says of one item leads to a pickle at the end of its file."""
    plan = pickle.loads((folder / ".metadata").read_bytes())
    index = _index(plan, kind)
    place = plan.storage_data[index]
    content, at = saved([evil]), (folder / place.relative_path).stat().st_size
    with (folder / place.relative_path).open("ab") as file:
        file.write(content)
    plan.storage_data[index] = replace(place, offset=at, length=len(content))
    (folder / ".metadata").write_bytes(pickle.dumps(plan))


def _weight(folder: Path, evil: Evil) -> None:
    _item(folder, evil, "linear_fc1.weight")


def _object(folder: Path, evil: Evil) -> None:
    _item(folder, evil, "_extra_state")


def _elsewhere(folder: Path, evil: Evil) -> None:
    """An item that is read from a file outside of the checkpoint."""
    (folder.parent / "elsewhere").write_bytes(saved([evil]))
    plan = pickle.loads((folder / ".metadata").read_bytes())
    index = _index(plan, "linear_fc1.weight")
    plan.storage_data[index] = replace(plan.storage_data[index], relative_path="../elsewhere", offset=0)
    (folder / ".metadata").write_bytes(pickle.dumps(plan))


def _state(folder: Path, evil: Evil) -> None:
    (folder / "state.json").write_bytes(pickle.dumps(evil))


def _description(folder: Path, evil: Evil) -> None:
    (folder / "metadata.json").write_bytes(pickle.dumps(evil))


FORGERIES: dict[str, Callable[[Path, Evil], None]] = {
    "plan": _plan,
    "part of the plan": _part_of_the_plan,
    "common state": _common,
    "random states": _random_states,
    "weight": _weight,
    "object beside the weights": _object,
    "file elsewhere": _elsewhere,
    "state": _state,
    "description": _description,
}
