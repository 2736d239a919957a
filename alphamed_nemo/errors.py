"""Failures that a recipe reports in one line; here, since the modules that raise them take seconds to import."""

from __future__ import annotations

import signal


def one_line(error: BaseException) -> str:
    """What a person is told of an error: its first line; the file and the reason where it is the system's."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error).split("\n", 1)[0] or type(error).__name__


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
