"""The safetensors of a Hugging Face folder, read lazily."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class HfFolder:
    """Opens one file (model.safetensors) or many (model.safetensors.index.json); use it in a `with` statement."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._file_of = self._locate()

    def __enter__(self) -> HfFolder:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.clear()
        self._stack.close()

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def source(self, name: str) -> Any:
        """A lazy slice: indexing it reads these rows or columns from disk and nothing else."""
        return self._open(self._file_of[name]).get_slice(name)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of the whole tensor. Its file is open for this alone: what was read of one that stays open stays in
        memory."""
        with safe_open(self.folder / self._file_of[name], framework="pt", device="cpu") as file:
            return file.get_tensor(name).to(dtype, copy=True)

    def check(self, shapes: dict[str, tuple[int, ...]], may_ignore: Callable[[str], bool]) -> None:
        """Compares the folder with the tensors that the model needs.

        Raises:
            ValueError: a tensor is missing, not expected (unless `may_ignore(name)`), or has another shape.
        """
        missing = [name for name in shapes if name not in self._file_of]
        if missing:
            raise ValueError(f"{self.folder}: {len(missing)} tensors are missing: {_some(missing)}")
        extra = sorted(name for name in self._file_of if name not in shapes and not may_ignore(name))
        if extra:
            raise ValueError(f"{self.folder}: {len(extra)} tensors are not expected: {_some(extra)}")
        for name, shape in shapes.items():
            found = tuple(self.source(name).get_shape())
            if found != shape:
                raise ValueError(f"{self.folder}: {name}: found shape {found}, expected {shape} from config.json")

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self.folder / file
            if not path.is_file():
                raise ValueError(f"{path}: missing, although {INDEX} names it")
            self._files[file] = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        return self._files[file]

    def _locate(self) -> dict[str, str]:
        """Which file holds which tensor.

        Raises:
            ValueError: there are no safetensors, or the index and the files disagree.
        """
        if (self.folder / INDEX).is_file():
            index = json.loads((self.folder / INDEX).read_text())["weight_map"]
            for file in sorted(set(index.values())):
                inside = set(self._open(file).keys())
                named = {name for name, where in index.items() if where == file}
                if inside != named:
                    raise ValueError(
                        f"{self.folder / file}: disagrees with {INDEX}: only in the file: {_some(inside - named)}; "
                        f"only in the index: {_some(named - inside)}"
                    )
            return index
        if (self.folder / SINGLE).is_file():
            return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        raise ValueError(f"{self.folder}: found neither {SINGLE} nor {INDEX}; expected a Hugging Face model folder")


def _some(names: Any, limit: int = 5) -> str:
    names = sorted(names)
    return (", ".join(names[:limit]) + (", …" if len(names) > limit else "")) or "none"
