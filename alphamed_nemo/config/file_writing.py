"""Writing files: none is seen half-written, and an error names its file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUSTS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose folder is made, to write to; at the end of the block it takes the name.

    Raises:
        OSError: of the block, as by `writing`; `path` is as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            yield part
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def whole_folder(path: Path, kept: type[Exception] | None = None) -> Iterator[Path]:
    """A folder beside `path` to write to; at the end of the block it takes the name, in the place of what was there.

    Args:
        path: the folder.
        kept: after an error of this kind the unfinished folder stays, to be looked at; after any other it goes.
    """
    part = path.with_name(f".{path.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException as error:
        if kept is None or not isinstance(error, kept):
            shutil.rmtree(part)
        raise
    if path.exists():
        shutil.rmtree(path)
    part.rename(path)


def remove_parts(folder: Path, name: str = "*") -> None:
    """Removes what processes that were killed in `whole_file` left of the files of that name, or of all.

    For a folder, or files, that nobody else writes meanwhile.
    """
    for part in folder.glob(f".{name}.*.part"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file that nothing reads before it is complete.

    Raises:
        OSError: as by `writing`.
    """
    with writing(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Gives an error of writing its file: the system names one that cannot be opened, but none that is full.

    Raises:
        OSError: of the block, with `path`; also where a library of Rust's (safetensors, tokenizers) has met it.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        found = RUSTS_ERROR.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
