"""Writing files: none is seen half-written, and an error names its file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose folder is made, to write to; at the end of the block it takes the name.

    Raises:
        OSError: of the block, as by `writing`; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(part):
        yield part
    part.replace(path)


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
