"""Failures that a recipe reports in one line; here, since the modules that raise them take seconds to import."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def one_line(error: BaseException) -> str:
    """What a person is told of an error: its first line; the file and the reason where it is the system's."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error).split("\n", 1)[0] or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Gives an error of writing its file: the system names one that cannot be opened, but none that is full.

    Raises:
        OSError: of the block, with `path`.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read."""


class ConversionError(RuntimeError):
    """What a conversion made is not the model that it was made from, and must not be used."""


class ComponentError(RuntimeError):
    """A component ended, or did not become ready. The message has its name, its status and its last log lines."""


class Stopped(Exception):
    """The launcher was asked to stop by a signal; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
