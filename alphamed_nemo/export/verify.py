"""The last step of every conversion: a proof that the folder and the checkpoint are the same model.

First the tensors, exactly (`export/exact.py`). Then the logits (`export/logits.py`), which tell whether names, order
and config mean the same to Megatron and to transformers. Both read what is on the disk, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphamed_nemo.export.exact import compare_tensors
from alphamed_nemo.export.logits import compare_logits, megatron_logits, probe
from alphamed_nemo.policy.checkpoint.adapted_weights import open_weights
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.table import Entry, WeightTable


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        tensors: Hugging Face tensors, all equal bit for bit.
        difference: the largest between Megatron's and transformers' logits in float64.
        limit: the largest that the model's own rounding explains.
    """

    tensors: int
    difference: float
    limit: float

    def __str__(self) -> str:
        return (
            f"{self.tensors} tensors equal bit for bit, largest logit difference {self.difference:.1e} in float64 "
            f"(limit {self.limit:.1e})"
        )


def prove(hf_config: Any, checkpoint: Path, folder: Path, dtype: torch.dtype, made: str, base: Path) -> Proof:
    """Shows that a folder is a checkpoint's model. In one process, as `policy.runtime.initialize` was called for.

    Args:
        hf_config: what Megatron's model is built from.
        checkpoint: of any layout.
        folder: what transformers' model is built from: its config.json and safetensors.
        dtype: what the conversion rounds weights to.
        made: what the conversion wrote, "folder" or "checkpoint".
        base: the folder of the model that was trained, whose weights a checkpoint with LoRA does not hold.

    Raises:
        ConversionError: it is not; one line that names the tensor or the position.
    """
    skeleton, table = build_skeleton(hf_config), WeightTable(hf_config)
    stored = open_weights(skeleton, hf_config, checkpoint, base)
    name_of = {bound.entry: bound.name for bound in bind([skeleton], table)}

    def rows(entries: Sequence[Entry]) -> dict[Entry, Tensor]:
        weights = stored.read([name_of[entry] for entry in entries], torch.float32)
        return {entry: weights[name_of[entry]] for entry in entries}

    def rounded(names: list[str]) -> dict[str, Tensor]:
        weights = stored.read(names, torch.float32)
        return {name: weights.pop(name).to(dtype) for name in names}

    may_ignore = table.model.may_ignore if made == "checkpoint" else lambda name: False
    tensors = compare_tensors(table, rows, folder, dtype, made, may_ignore)
    ids = probe(hf_config.vocab_size)
    difference, limit = compare_logits(megatron_logits(hf_config, rounded, ids, torch.float64), folder, ids)
    return Proof(tensors, difference, limit)
