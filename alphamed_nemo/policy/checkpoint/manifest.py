"""Which files a checkpoint consists of: their sizes and checksums, written last and checked before anything is read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from alphamed_nemo.config.choices import Dtype

NAME = "manifest.json"
FORMAT = 1  # of the checkpoint folder; a reader refuses a number that it does not know


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[str]:
    """Every file below the folder except the manifest, as sorted relative paths."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != NAME)


def write(folder: Path, digests: dict[str, str], about: dict[str, Any]) -> None:
    """Writes the manifest.

    Args:
        folder: the checkpoint.
        digests: SHA-256 of each file, by relative path.
        about: what else to record (step, layout, versions); plain JSON.
    """
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digests[name]} for name in sorted(digests)}
    write_bytes(folder / NAME, json.dumps({"format": FORMAT, **about, "files": files}, indent=1).encode())


def read(folder: Path) -> dict[str, Any]:
    """The manifest as written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not valid JSON.
    """
    return json.loads((folder / NAME).read_text())


def trained_dtype(folder: Path) -> Dtype | Literal[""]:
    """The dtype of the model's parameters when the checkpoint was written; empty where the manifest does not say."""
    try:
        return read(folder).get("dtype", "")
    except ValueError:  # damaged, which is for `damage` to say
        return ""


def damage(folder: Path, checksums: bool = True) -> list[str]:
    """What is wrong with a checkpoint: one sentence for each file that is missing or differs; empty where it is whole.

    Args:
        folder: the checkpoint.
        checksums: compare contents, too, and not sizes alone; reads every byte.
    """
    try:
        manifest = read(folder)
    except FileNotFoundError:
        return [f"{NAME} is missing"]
    except ValueError as error:
        return [f"{NAME} is damaged: {error}"]
    if manifest.get("format") != FORMAT:
        return [f"{NAME} has format {manifest.get('format')!r}, expected {FORMAT}"]
    return [
        sentence
        for name, expected in manifest["files"].items()
        if (sentence := _compare(folder, name, expected, checksums))
    ]


def _compare(folder: Path, name: str, expected: dict[str, Any], checksums: bool) -> str | None:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if (size := path.stat().st_size) != expected["bytes"]:
        return f"{name} has {size} bytes, expected {expected['bytes']}"
    if checksums and digest(path) != expected["sha256"]:
        return f"{name} has another checksum than when it was written"
    return None


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the folder's own entries (a rename in it) are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
