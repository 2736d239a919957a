"""Puts functions of this project in the place of vLLM's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "alphamed"  # attribute of a function that stands where vLLM's was


def replaces(owner: type | ModuleType, name: str) -> Callable[[Function], Function]:
    """Decorates what is called in place of `owner.name`, with the original as its first argument.

    vLLM may load its plugins twice in one process: what has been replaced stays as it is.

    Args:
        owner: the class, or the module, that the name is looked up in.
        name: of a method, a class method or a function.
    """

    def replace(function: Function) -> Function:
        found = getattr(owner, name)
        if getattr(found, _MARK, False):
            return function
        is_class_method = inspect.ismethod(found)
        original = found.__func__ if is_class_method else found

        @wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(replacement, _MARK, True)
        setattr(owner, name, classmethod(replacement) if is_class_method else replacement)
        return function

    return replace
