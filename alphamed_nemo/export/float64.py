"""Runs a framework's own code, written for float32, in float64.

transformers and Megatron name float32 in their norms, softmax and rotary embeddings, whatever the type of the weights.
Here every such name means float64, so two programs for the same formula agree to some 1e-15 of their values, and a
difference in the formula stands out by many orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from alphamed_nemo.policy.weights.stored import Read


class Float64(TorchFunctionMode):
    """In its `with` block torch's functions take float32 for float64, by name and by default."""

    _outside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._outside:
            return func(*args, **kwargs)
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})

    def __enter__(self) -> Float64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._default)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """As if the `with` block had not been entered: for code that reads files of other types."""
        self._outside = True
        torch.set_default_dtype(self._default)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float64)
            self._outside = False

    def widened(self, read: Read) -> Read:
        """The same weights in float64."""

        def wide(names: list[str]) -> dict[str, torch.Tensor]:
            with self.outside():
                weights = read(names)
                return {name: weights.pop(name).double() for name in names}

        return wide


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
