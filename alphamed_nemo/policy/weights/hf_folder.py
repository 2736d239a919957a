"""The safetensors of a Hugging Face folder, read lazily."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from alphamed_nemo.weight_files import locate, refuse_misfit


class HfFolder:
    """Opens one file (model.safetensors) or many (model.safetensors.index.json); use it in a `with` statement.

    Raises:
        ValueError: there are no safetensors, one is cut off, or the index and the files disagree.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._stack = ExitStack()
        self._files: dict[Path, Any] = {}
        self._tensors = locate(folder)

    def __enter__(self) -> HfFolder:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.clear()
        self._stack.close()

    @property
    def names(self) -> set[str]:
        return set(self._tensors)

    def source(self, name: str) -> Any:
        """A lazy slice: indexing it reads these rows or columns from disk and nothing else."""
        return self._open(self._tensors[name].file).get_slice(name)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of the whole tensor. Its file is open for this alone: what was read of one that stays open stays in
        memory."""
        with safe_open(self._tensors[name].file, framework="pt", device="cpu") as file:
            return file.get_tensor(name).to(dtype, copy=True)

    def check(self, shapes: dict[str, tuple[int, ...]], may_ignore: Callable[[str], bool]) -> None:
        """Compares the folder with the tensors that the model needs.

        Raises:
            ValueError: a tensor is missing, not expected (unless `may_ignore(name)`), or has another shape.
        """
        refuse_misfit(self.folder, self._tensors, shapes, may_ignore)

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            self._files[file] = self._stack.enter_context(safe_open(file, framework="pt", device="cpu"))
        return self._files[file]
