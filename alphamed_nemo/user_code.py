"""A user's own functions and classes, named in settings as `folder/file.py:name` or `package.module:name`.

`find` says before any process starts whether a name can be right; it reads the source and runs none of it. `load`
imports it, in the process that calls it. A file is relative to the project's root; a module is one that Python can
import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def is_place(text: str) -> bool:
    """Whether a setting names a user's own code rather than one of the built-in choices."""
    return ":" in text


def name_of(place: str) -> str:
    """The name behind the colon."""
    return place.rpartition(":")[2]


def find(place: str, key: str, arguments: Collection[str] = ()) -> None:
    """Refuses a place that cannot be loaded.

    Args:
        place: `file.py:name` or `package.module:name`.
        key: the setting that names it.
        arguments: what a function is called with, by name; empty: not looked at.

    Raises:
        ValueError: no such file, module or name, source that is not Python, or a function that asks for an argument
            that it does not get.
    """
    _, name = _parts(place, key)
    path = source_file(place, key)
    if path is None:  # known once it is imported
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{key}: {path} is not Python: {error}") from error
    bound = dict(_bindings(tree.body))
    if name not in bound and "*" not in bound:
        functions = [known for known, node in bound.items() if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        raise ValueError(f"{key}: {path} has no {name!r}; it defines {', '.join(functions) or 'nothing'}")
    definition = bound.get(name)
    if isinstance(definition, ast.AsyncFunctionDef):
        raise ValueError(f"{key}: {name} in {path} is async; expected a plain function")
    if arguments and isinstance(definition, ast.FunctionDef):
        _check_arguments(definition.args, f"{key}: {name} in {path}", arguments)


def source_file(place: str, key: str) -> Path | None:
    """The file that a place's source is in; None where it has none (compiled, or built in).

    Raises:
        ValueError: there is no such file or module.
    """
    source, _ = _parts(place, key)
    return _path(source, key) if _is_file(source) else _origin(source, key)


def load(place: str, key: str) -> Any:
    """What a place names. This runs the user's file, once in each process.

    Raises:
        ValueError: it is not there, or the import failed; names the setting.
    """
    source, name = _parts(place, key)
    try:
        module = _module(_path(source, key)) if _is_file(source) else importlib.import_module(source)
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, ValueError) and str(error).startswith(f"{key}: "):
            raise
        raise ValueError(f"{key}: {source} could not be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise ValueError(f"{key}: {source} has no {name!r}")
    return getattr(module, name)


def _parts(place: str, key: str) -> tuple[str, str]:
    source, _, name = place.rpartition(":")
    if not source or not name.isidentifier():
        raise ValueError(f"{key}: found {place!r}, expected file.py:name or package.module:name")
    return source, name


def _is_file(source: str) -> bool:
    return source.endswith(".py") or "/" in source


def _path(source: str, key: str) -> Path:
    path = ROOT / Path(source).expanduser()  # an absolute one stays as it is
    if not path.is_file():
        raise ValueError(f"{key}: no file {path}; a file is given relative to {ROOT}")
    return path


def _origin(source: str, key: str) -> Path | None:
    """The source file of a module."""
    try:
        found = importlib.util.find_spec(source)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is None:
        raise ValueError(f"{key}: no module {source!r}; install it, or name a file: folder/file.py:name")
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def _module(path: Path) -> ModuleType:
    """A file as a module. It is known to Python by a name of its own, since dataclasses and pickles ask for it."""
    path = path.resolve()
    name = f"user_code_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _bindings(statements: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a module's statements bind, each with its statement; `*` where anything may be imported."""
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name, statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
            yield from ((node.id, statement) for node in names)
        else:  # if, try, with
            for block in ("body", "orelse", "finalbody"):
                yield from _bindings(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from _bindings(handler.body)


def _check_arguments(given: ast.arguments, what: str, known: Collection[str]) -> None:
    """A function gets its arguments by name."""
    expected = ", ".join(known)
    positional = given.posonlyargs + given.args
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    asked = [argument.arg for argument, default in zip(positional, defaults, strict=True) if default is None]
    asked += [a.arg for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    for name in asked:
        if name not in known:
            raise ValueError(f"{what} asks for {name!r}; expected arguments out of {expected}")
    if given.posonlyargs:
        raise ValueError(f"{what} has positional-only arguments; it is called by name, with {expected}")
