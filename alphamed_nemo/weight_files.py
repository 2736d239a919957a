"""The safetensors of a Hugging Face folder as their headers describe them, read without torch.

A header is some kilobytes at the start of a file: names, types, shapes and places of its tensors. So whether a download
is complete and holds the model of its config.json is known in milliseconds, before any process starts.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphamed_nemo.families import EMBEDDING, HEAD, Dimensions, dimensions, family_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of the types that a model's weights may have
_PIECE = 2**24  # bytes that are compared at a time


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `size` bytes from `start` of a file."""

    file: Path
    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    start: int
    size: int


def check_model(folder: str | Path) -> dict[str, Any]:
    """Whether a folder holds a model that can be built, and all of it; reads config.json and headers.

    Returns:
        The contents of config.json.

    Raises:
        ValueError: one line with the file, key or tensor, what was found and what was expected.
    """
    folder = Path(folder)
    config = _json(folder / "config.json")
    try:
        model = dimensions(config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    check_weights(folder, model)
    return config


def check_served(folder: str | Path) -> dict[str, Any]:
    """Whether a folder's files are whole and of a family known here: enough for a model that only vLLM has to build.

    Returns:
        The contents of config.json.

    Raises:
        ValueError: as `check_model`.
    """
    config = _json(Path(folder) / "config.json")
    try:
        family_of(config.get("model_type"))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    locate(folder)
    return config


def check_weights(folder: str | Path, model: Dimensions) -> None:
    """Whether a folder's safetensors are a model's: all of its tensors, no other ones, in its shapes.

    Raises:
        ValueError: they are not; names the tensor.
    """
    tensors = locate(folder)
    if not model.tied and EMBEDDING in tensors and HEAD not in tensors:
        raise ValueError(
            f"{folder}: found no {HEAD}, expected one since config.json does not say tie_word_embeddings: true; "
            "transformers would make up a random head"
        )
    refuse_misfit(folder, tensors, model.tensors(), model.may_ignore)
    for name in model.tensors():
        if tensors[name].dtype not in BYTES:
            raise ValueError(f"{folder}: {name}: found type {tensors[name].dtype}, expected one of {', '.join(BYTES)}")
    if model.tied and HEAD in tensors and not _same(tensors[HEAD], tensors[EMBEDDING]):
        raise ValueError(
            f"{folder}: {HEAD}: found other values than those of {EMBEDDING}, expected the same or no such tensor, "
            "since config.json says tie_word_embeddings: true; set it to false if the model has a head of its own"
        )


def locate(folder: str | Path) -> dict[str, StoredTensor]:
    """Every tensor of model.safetensors, or of the files that model.safetensors.index.json names.

    Raises:
        ValueError: a file is missing, cut off or no safetensors, or the index and the files disagree.
    """
    folder = Path(folder)
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(
            f"{folder}: found both {SINGLE} and {INDEX}, expected one of them: transformers reads the first and vLLM "
            "the second; remove the one that is out of date"
        )
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise ValueError(f"{folder}: found neither {SINGLE} nor {INDEX}; is the download complete?")
    file_of = _json(index).get("weight_map")
    if not isinstance(file_of, dict) or not file_of or not all(isinstance(file, str) for file in file_of.values()):
        raise ValueError(f"{index}: found no weight_map, expected the file of each tensor; is the download complete?")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(file_of.values())):
        if not (folder / file).is_file():
            raise ValueError(f"{folder / file}: missing, although {INDEX} names it; is the download complete?")
        inside, named = read_header(folder / file), {name for name, where in file_of.items() if where == file}
        if inside.keys() != named:
            raise ValueError(
                f"{folder / file}: disagrees with {INDEX}: only in the file: {some(inside.keys() - named)}; "
                f"only in the index: {some(named - inside.keys())}"
            )
        tensors |= inside
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file.

    Raises:
        ValueError: it is cut off, or no safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 8 + length <= size else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {name: _stored(path, 8 + length, entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: found {size} bytes that are no safetensors; is the download complete?") from error
    expected = max((tensor.start + tensor.size for tensor in tensors.values()), default=8 + length)
    if size != expected:
        raise ValueError(f"{path}: found {size} bytes, expected {expected} by its header; is the download complete?")
    return tensors


def refuse_misfit(
    folder: str | Path,
    tensors: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    may_ignore: Callable[[str], bool],
) -> None:
    """Compares a folder's tensors with those that a model needs.

    Raises:
        ValueError: a tensor is missing, not expected (unless `may_ignore(name)`), or has another shape.
    """
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} tensors are missing: {some(missing)}")
    extra = [name for name in tensors if name not in shapes and not may_ignore(name)]
    if extra:
        raise ValueError(f"{folder}: {len(extra)} tensors are not expected: {some(extra)}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{folder}: {name}: found shape {tensors[name].shape}, expected {shape} from config.json")


def some(names: Iterable[str], limit: int = 5) -> str:
    """A few of many names, for a message."""
    ordered = sorted(names)
    return (", ".join(ordered[:limit]) + (", …" if len(ordered) > limit else "")) or "none"


def _stored(path: Path, data: int, entry: Mapping[str, Any]) -> StoredTensor:
    start, stop = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    size = BYTES[dtype] * math.prod(shape) if dtype in BYTES else stop - start
    if not 0 <= start <= stop or stop - start != size:
        raise ValueError(f"{dtype} {shape} in {stop - start} bytes")
    return StoredTensor(path, dtype, shape, data + start, size)


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are the same bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        for done in range(0, one.size, _PIECE):
            count = min(_PIECE, one.size - done)
            if first.read(count) != second.read(count):
                return False
    return True


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing; is the download complete?") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected an object")
    return content
