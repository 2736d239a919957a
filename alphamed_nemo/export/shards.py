"""Safetensors written while the weights stream past: one file, or many with an index.

The header of a file says where each tensor lies, and all shapes are known before the first one comes. So each tensor
goes to its place at once, and none is kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from alphamed_nemo.config.file_writing import write_text, writing
from alphamed_nemo.weight_files import INDEX, SINGLE

_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}  # safetensors' names of the types
_PIECE = 2**24  # elements that are converted to the type of the file at a time


def plan(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int) -> list[list[str]]:
    """Which tensors go into which file: in the order given, each file at most `shard_bytes`, one tensor at least."""
    files: list[list[str]] = []
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = torch.Size(shape).numel() * dtype.itemsize
        if not files or size + tensor_bytes > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += tensor_bytes
    return files


def write_shards(
    weights: Iterable[tuple[str, Tensor | None]],
    shapes: dict[str, tuple[int, ...]],
    folder: Path,
    dtype: torch.dtype,
    shard_gb: float,
) -> list[str]:
    """Writes a stream of tensors; keeps none of them.

    Args:
        weights: name and tensor, in the order of `shapes`.
        shapes: what must come.
        folder: where the files go; exists.
        dtype: the type in the files.
        shard_gb: the largest size of a file, in 10^9 bytes.

    Returns:
        The names of the files written, the index included.

    Raises:
        ValueError: a tensor is missing, not expected, comes twice, out of order or in another shape; by name.
    """
    files = plan(shapes, dtype, int(shard_gb * 1e9))
    names = (
        [SINGLE] if len(files) == 1 else [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    )
    stream = iter(weights)
    for file, content in zip(names, files, strict=True):
        _write_file(folder / file, stream, {name: shapes[name] for name in content}, dtype)
    if (left := next(stream, None)) is not None:
        raise ValueError(f"weights to export: found {left[0]}, expected no more tensors")
    if len(names) > 1:
        total = dtype.itemsize * sum(torch.Size(shape).numel() for shape in shapes.values())
        file_of = {name: file for file, content in zip(names, files, strict=True) for name in content}
        index = {"metadata": {"total_size": total}, "weight_map": file_of}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
        names.append(INDEX)
    return names


def _write_file(
    path: Path, stream: Iterator[tuple[str, Tensor | None]], shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Writes the next tensors of the stream; byte for byte what safetensors' save_file makes of them."""
    header, starts = _layout(shapes, dtype)
    with writing(path), path.open("wb") as file:
        file.write(header)
        for due in shapes:
            name, tensor = next(stream, (None, None))
            if name != due:
                raise ValueError(
                    f"weights to export: {f'found {name}' if name else 'the stream ended'}, expected {due}"
                )
            assert tensor is not None, f"{due}: rank 0 writes, and has every tensor"
            if tuple(tensor.shape) != shapes[due]:
                raise ValueError(f"{due}: found shape {tuple(tensor.shape)}, expected {shapes[due]}")
            file.seek(len(header) + starts[due])
            _write_tensor(file, tensor, dtype)
            del tensor  # the stream makes the next one


def _write_tensor(file: io.BufferedWriter, tensor: Tensor, dtype: torch.dtype) -> None:
    for piece in tensor.detach().reshape(-1).split(_PIECE):
        file.write(piece.to("cpu", dtype).view(torch.uint8).numpy().data)


def _layout(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> tuple[bytes, dict[str, int]]:
    """The head of a file, its length included, and where each tensor starts behind it; tensors lie in order of names.

    Source: https://github.com/huggingface/safetensors#format
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(shapes):
        starts[name], end = end, end + torch.Size(shapes[name]).numel() * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": shapes[name], "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts
