"""What a checkpoint consists of: its files with their sizes and checksums, written last and checked before any is read.

manifest.json is plain JSON with a checksum of its own, so that a change anywhere in a checkpoint is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

import msgspec

from alphamed_nemo.config.choices import LoraTarget
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.config.run_folder import STATE, by_step
from alphamed_nemo.errors import CheckpointError

NAME = "manifest.json"
FORMAT = 2  # of the checkpoint folder; a reader refuses a number that it does not know
RNG = "rng.pt"
# Without one of these nothing can be loaded, whatever the list of files says; the last three are Megatron's and
# torch's.
REQUIRED = (RNG, STATE, "common.pt", "metadata.json", ".metadata")


Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Ranks = Annotated[int, msgspec.Meta(ge=1)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+(/[\w.-]+)*\Z")]


class File(TypedDict):
    """Size and SHA-256 of a file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Digest


class Layout(TypedDict):
    """The `parallel` settings that saved it."""

    tensor: Ranks
    pipeline: Ranks
    data: Ranks
    context: Ranks


class Lora(TypedDict):
    """The `lora` settings that saved it."""

    rank: Ranks
    alpha: Annotated[float, msgspec.Meta(gt=0)]
    targets: list[LoraTarget]


class Manifest(TypedDict):
    """The contents of manifest.json. What is not named here may be there, too.

    optimizer: whether it holds an optimizer's state. dtype: of the model's parameters. torch, megatron: versions.
    lora: settings of the adapters, where it holds them in the place of all weights.
    files: by path relative to the checkpoint. sha256: of all the rest.
    """

    format: int
    optimizer: bool
    dtype: Literal["float32", "bfloat16"]
    layout: Layout
    torch: str
    megatron: str
    lora: NotRequired[Lora]
    files: dict[FileName, File]
    sha256: Digest


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, whole or not, oldest first."""
    return [path for path in by_step(folder).values() if path.is_dir()]


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
        about: the other keys of `Manifest`, and what else to record; plain JSON.
    """
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digests[name]} for name in sorted(digests)}
    content = {"format": FORMAT, **about, "files": files}
    write_bytes(folder / NAME, json.dumps(content | {"sha256": _checksum(content)}, indent=1).encode())


def read(folder: Path) -> Manifest:
    """The manifest, once its checksum and its types have been found to be right.

    Raises:
        CheckpointError: there is none, or it is damaged; names the folder.
    """
    try:
        return _read(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def read_state(folder: Path) -> dict[str, Any]:
    """The state given to `save`, without the rest of the checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {STATE}: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder}: {STATE} holds {type(state).__name__}, expected an object")
    return state


def damage(folder: Path, checksums: bool = True, share: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with a checkpoint: one sentence for each file that is missing or differs; empty where it is whole.

    Args:
        folder: the checkpoint.
        checksums: compare contents, too, and not sizes alone; reads every byte.
        share: (i, n): the i-th of n parts of about equal size; the manifest itself is in each of them.
    """
    try:
        files = _read(folder)["files"]
    except CheckpointError as error:
        return [str(error)]
    part, parts = share
    largest_first = sorted(files, key=lambda name: (-files[name]["bytes"], name))
    problems = (_compare(folder / name, name, files[name], checksums) for name in largest_first[part::parts])
    return sorted(problem for problem in problems if problem)


def refuse_damaged(folder: Path) -> None:
    """Compares the sizes of a checkpoint's files, not their contents.

    Raises:
        CheckpointError: a file is missing or has another size, or the manifest is damaged; names the folder.
    """
    if problems := damage(folder, checksums=False):
        raise CheckpointError(f"{folder}: {'; '.join(problems)}")


def _read(folder: Path) -> Manifest:
    """As `read`, but the messages do not name the folder."""
    try:
        content: Any = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{NAME} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{NAME} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{NAME} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{NAME} is damaged: found {type(content).__name__}, expected an object")
    if content.get("format") != FORMAT:
        stated = repr(content.get("format"))[:40]
        raise CheckpointError(f"{NAME} has format {stated}, expected {FORMAT}: damaged, or of another version")
    try:
        msgspec.convert(content, Manifest)
        intact = content["sha256"] == _checksum({key: content[key] for key in content if key != "sha256"})
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{NAME} is damaged: {error}") from error
    if not intact:
        raise CheckpointError(f"{NAME} has another checksum than when it was written")
    if absent := [name for name in REQUIRED if name not in content["files"]]:
        raise CheckpointError(f"{NAME} does not list {', '.join(absent)}")
    return cast(Any, content)


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of what the manifest says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _compare(path: Path, name: str, expected: File, checksums: bool) -> str | None:
    try:
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"{name} has {size} bytes, expected {expected['bytes']}"
        if checksums and digest(path) != expected["sha256"]:
            return f"{name} has another checksum than when it was written"
    except OSError as error:
        return f"{name} cannot be read: {error}"
    return None


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk. Raises: OSError: as by `writing`."""
    with writing(path), path.open("wb") as file:
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
