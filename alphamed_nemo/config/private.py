"""Files that only their owner may read, from the moment that they exist and whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

from alphamed_nemo.config.file_writing import writing

OWNER_ONLY = 0o600


def owner_only(path: str, flags: int) -> int:
    """For `open(..., opener=owner_only)`. One that is there already, and is ours, is closed to others too."""
    descriptor = os.open(path, flags, OWNER_ONLY)
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and found.st_mode & 0o777 != OWNER_ONLY:
        os.fchmod(descriptor, OWNER_ONLY)
    return descriptor


def write_private(path: os.PathLike[str] | str, text: str) -> None:
    """Writes a text into such a file. Raises: OSError: as by `writing`."""
    with writing(Path(path)), open(path, "w", encoding="utf-8", opener=owner_only) as file:
        file.write(text)
