"""Failures that a recipe reports in one line; here, since the modules that raise them take seconds to import."""

from __future__ import annotations

import errno
import os
import shutil
import signal

FULL = (errno.ENOSPC, errno.EDQUOT)


def one_line(error: BaseException) -> str:
    """What a person is told of an error: its first line; the file and the reason where it is the system's, and what to
    do where the disk is full."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of a whole tree; it keeps texts alone
        _, file, reason = error.args[0][0]
        full = any(os.strerror(number) in reason for number in FULL)
    elif isinstance(error, OSError) and error.strerror:
        full = error.errno in FULL
        file, reason = error.filename, error.strerror
        if full and error.filename2 is not None:  # of a copy
            file = error.filename2
    else:
        return str(error).split("\n", 1)[0] or type(error).__name__
    said = reason if file is None else f"{file}: {reason}"
    return f"{said}; free disk space there, then run the same command again" if full else said


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read."""


class ConversionError(RuntimeError):
    """What a conversion made is not the model that it was made from, and must not be used."""


class ComponentError(RuntimeError):
    """A component ended, or did not become ready. The message has its name, its status and its last log lines."""


class JudgeError(RuntimeError):
    """The judge of answers in free text could not be reached, or says nothing that can be read."""


class Stopped(Exception):
    """The launcher was asked to stop by a signal; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
