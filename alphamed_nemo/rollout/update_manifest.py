"""The key manifest of a refit: which weights a complete update carries, in which shapes and type.

Both sides have one. The trainer's comes from the model's configuration (`policy.weights.hf_shapes`) and the type that
it trains in; the server's from the safetensors files that it was started from, since what it was started from is what
it must get back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphamed_nemo.families import is_ignored, is_tied
from alphamed_nemo.weight_files import locate

Shapes = dict[str, tuple[int, ...]]  # by HF name
Found = tuple[str, tuple[int, ...], str]  # HF name, shape and dtype of a weight, the dtype as torch spells it

FLOATS = ("float32", "bfloat16", "float16")
SHOWN = 8  # names in an error message


@dataclass(frozen=True)
class Manifest:
    """What a complete update carries.

    Attributes:
        shapes: by HF name; tied heads are not in it.
        dtype: of every weight, as torch spells it. Empty on the server's side, which takes any of FLOATS as long as all
            weights of an update have the same.
    """

    shapes: Shapes
    dtype: str = ""

    def listed(self) -> list[Found]:
        """The update that it describes."""
        return [(name, shape, self.dtype) for name, shape in self.shapes.items()]


class Arrivals:
    """The weights of one update as they come, each compared with the manifest before it is passed on."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.dtype = manifest.dtype
        self.seen: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Raises ValueError for a weight that the manifest does not expect now."""
        if problem := self._problem(name, tuple(shape), dtype):
            raise _refusal(self.manifest, {problem[0]: [problem[1]]})
        self.seen.add(name)

    def finish(self) -> None:
        """Raises ValueError where weights did not come."""
        if missing := self.missing():
            raise _refusal(self.manifest, {"missing": missing})

    def missing(self) -> list[str]:
        return [name for name in self.manifest.shapes if name not in self.seen]

    def _problem(self, name: str, shape: tuple[int, ...], dtype: str) -> tuple[str, str] | None:
        """The kind of what is wrong, and the weight with it."""
        self.dtype = self.dtype or (dtype if dtype in FLOATS else FLOATS[0])  # the first weight's, where any will do
        if name in self.seen:
            return "duplicate", name
        if (expected := self.manifest.shapes.get(name)) is None:
            return "unexpected", name
        if shape != tuple(expected):
            return "of another shape", f"{name} {shape}, expected {tuple(expected)}"
        if dtype != self.dtype:
            return "of another dtype", f"{name} {dtype}, expected {self.dtype}"
        return None


def check_manifest(expected: Manifest, found: Iterable[Found]) -> None:
    """Refuse an update that is not exactly `expected`.

    Args:
        found: each weight that came, in order, repetitions included.

    Raises:
        ValueError: names are missing, unexpected or duplicate, or a shape or dtype differs; the message lists them.
    """
    arrivals = Arrivals(expected)
    problems: dict[str, list[str]] = {}
    for name, shape, dtype in found:
        if problem := arrivals._problem(name, tuple(shape), dtype):
            problems.setdefault(problem[0], []).append(problem[1])
        arrivals.seen.add(name)
    if missing := arrivals.missing():
        problems["missing"] = missing
    if problems:
        raise _refusal(expected, problems)


def read_manifest(model_path: str | Path) -> Manifest:
    """Names and shapes of the weights in a Hugging Face folder, from the headers of its safetensors files.

    Raises:
        ValueError: the folder has no safetensors files, or they are not whole.
    """
    config = Path(model_path) / "config.json"
    tied = config.exists() and is_tied(json.loads(config.read_text()))
    stored = locate(model_path).items()
    return Manifest({name: tensor.shape for name, tensor in stored if not is_ignored(name, tied)})


def dtype_name(tensor: Any) -> str:
    """A tensor's dtype as a manifest names it."""
    return str(tensor.dtype).removeprefix("torch.")


def _refusal(manifest: Manifest, problems: dict[str, list[str]]) -> ValueError:
    parts = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in problems.items()]
    return ValueError(f"weights refused, of {len(manifest.shapes)} expected: " + "; ".join(parts))


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
