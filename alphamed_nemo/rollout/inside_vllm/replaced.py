"""The mark of vLLM's functions that this project has replaced, so that none is replaced twice in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "alphamed"


def is_ours(function: object) -> bool:
    return getattr(function, _MARK, False)


def ours(function: Function) -> Function:
    """The function with the mark; above `wraps`, which copies the original's attributes."""
    setattr(function, _MARK, True)
    return function
