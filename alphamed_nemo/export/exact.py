"""The first half of a conversion's proof: every tensor of the folder is the checkpoint's, bit for bit.

The weight map is a bijection, so nothing here has a tolerance. Each parameter of the checkpoint is taken to Hugging
Face's names and each file's tensor to Megatron's, and both must meet. What the map itself might have wrong, in the same
way in both directions, is left to the logits (`export/logits.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alphamed_nemo.errors import ConversionError
from alphamed_nemo.policy.weights.hf_folder import HfFolder
from alphamed_nemo.policy.weights.table import Entry, WeightTable

ReadRows = Callable[[Sequence[Entry]], dict[Entry, Tensor]]  # whole Megatron parameters by their rows of the table


def compare_tensors(
    table: WeightTable,
    read: ReadRows,
    folder: str | Path,
    dtype: torch.dtype,
    made: str,
    may_ignore: Callable[[str], bool] = lambda name: False,
) -> int:
    """Compares a folder's safetensors with Megatron's parameters, a block of the table at a time.

    Args:
        table: the rows of the model.
        read: called for the rows of the embedding, of each layer and of the head.
        folder: its tensors are read whole, one row of the table at a time.
        dtype: what the conversion rounds parameters to; the comparison is of what is left after it.
        made: what the conversion wrote, "folder" or "checkpoint": the other one is what is expected.
        may_ignore: tensors that the folder may hold beyond the table's.

    Returns:
        How many tensors were compared.

    Raises:
        ConversionError: the folder lacks a tensor, has another one, or an element differs; names the first.
    """
    compared = 0
    try:
        files = HfFolder(folder)
        files.check(table.shapes(), may_ignore)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    with files:
        for block in table.blocks:
            held = read(block.entries)
            for entry in block.entries:
                parameter = held.pop(entry).to(dtype).float()
                stored = [files.tensor(name, torch.float32) for name in entry.names]
                _compare_row(entry, stored, parameter, made)
                compared += len(stored)
                del parameter, stored  # the largest is gone before the next one comes
    return compared


def _compare_row(entry: Entry, stored: list[Tensor], parameter: Tensor, made: str) -> None:
    """A row of the table in both directions, one after the other."""
    for theirs, (name, ours) in zip(stored, entry.merge([parameter]), strict=True):
        _refuse_difference(name, theirs, ours, made)
        del ours
    there = entry.transform.shard(stored, 0, 1, parameter.shape[0])
    _refuse_difference(entry.megatron[0], there, parameter, made)


def _refuse_difference(name: str, in_folder: Tensor, in_checkpoint: Tensor, made: str) -> None:
    """Compares float32 tensors as bits, so that a NaN equals itself and 0 is not −0."""
    if in_folder.shape != in_checkpoint.shape:
        shapes = (tuple(in_folder.shape), tuple(in_checkpoint.shape))
        found, expected = shapes if made == "folder" else shapes[::-1]
        raise ConversionError(f"{name}: found shape {found}, expected {expected}: the conversion is wrong")
    differs = in_folder.contiguous().view(torch.int32) != in_checkpoint.contiguous().view(torch.int32)
    count = int(differs.sum())
    if not count:
        return
    place = tuple(int(index) for index in torch.unravel_index(differs.flatten().int().argmax(), differs.shape))
    values = (in_folder[place].item(), in_checkpoint[place].item())
    found, expected = values if made == "folder" else values[::-1]
    source = "checkpoint" if made == "folder" else "folder"
    raise ConversionError(
        f"{name}{list(place)}: found {found:.9g} in the {made}, expected the {source}'s {expected:.9g} "
        f"({count} of {differs.numel()} elements differ): the conversion is wrong"
    )
