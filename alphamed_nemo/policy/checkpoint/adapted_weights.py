"""The weights that a checkpoint with LoRA stands for: the base model's, with the checkpoint's adapters merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from alphamed_nemo.config import LoraConfig
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.policy.checkpoint import tensors as checkpoint_tensors
from alphamed_nemo.policy.checkpoint.stored_weights import CheckpointWeights, in_memory, without_factories
from alphamed_nemo.policy.lora import SUFFIX, adapters_of, add_adapters, merge
from alphamed_nemo.policy.model import DTYPES, build_skeleton
from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.hf_folder import HfFolder
from alphamed_nemo.policy.weights.table import Entry, WeightTable


def open_weights(skeleton: GPTModel, hf_config: Any, folder: Path, base: Path) -> CheckpointWeights | AdaptedWeights:
    """A checkpoint's weights, to be read a few at a time.

    Args:
        skeleton: from `build_skeleton`.
        hf_config: transformers' config of the model.
        folder: the checkpoint, with adapters or without.
        base: the Hugging Face folder of the model that was trained; read where there are adapters.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model.
    """
    if lora_of(folder) is None:
        return CheckpointWeights(skeleton, folder)
    return AdaptedWeights(hf_config, folder, base)


def lora_of(folder: Path) -> LoraConfig | None:
    """Of the adapters that a checkpoint holds; None of one with all weights.

    Raises:
        CheckpointError: its manifest is damaged.
    """
    found = manifest.read(folder).get("lora")
    return None if found is None else LoraConfig(**found)


class AdaptedWeights:
    """As `CheckpointWeights`.

    Args:
        hf_config: transformers' config of the model.
        folder: a checkpoint with adapters.
        base: the Hugging Face folder of the base model.

    Attributes:
        lora: of its adapters.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model.
    """

    def __init__(self, hf_config: Any, folder: Path, base: Path) -> None:
        manifest.refuse_damaged(folder)
        lora = lora_of(folder)
        assert lora is not None, f"{folder} holds all weights"
        self.lora, self.folder, self.base = lora, folder, base
        self.trained_in = DTYPES[manifest.read(folder)["dtype"]]
        skeleton = build_skeleton(hf_config)
        self._rows = {bound.name: bound for bound in bind([skeleton], WeightTable(hf_config))}
        add_adapters([skeleton], lora, 0)
        self._shards = checkpoint_tensors.of_model(skeleton)
        self._adapted = set(adapters_of(skeleton))
        needed = without_factories(self._shards)
        stored = {key for key in checkpoint_tensors.stored_tensors(folder) if not key.startswith("optimizer.")}
        checkpoint_tensors.refuse_misfit(folder, stored - needed.keys(), needed.keys() - stored)

    def read(self, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Whole weights by Megatron's names, adapters merged in float32; on the CPU.

        Raises:
            CheckpointError: a file cannot be read.
        """
        found = {}
        with HfFolder(self.base) as files:
            for name in names:
                row = self._rows[name]
                sources = [files.source(source) for source in row.entry.names]
                rows = sum(shape[0] for _, shape in row.entry.hf)
                weight = row.entry.transform.shard(sources, 0, 1, rows).to(self.trained_in)
                linear = name.removesuffix(".weight")
                if linear in self._adapted:
                    weight = merge(weight, *self._adapter(linear), self.lora)
                found[name] = weight.to(dtype)
        return found

    def adapters(self) -> Iterator[tuple[Entry, Tensor, Tensor]]:
        """Each adapter, whole: the row of its weight, A [rank, in] and B [out, rank]; in the type that it was trained
        in."""
        for name, row in self._rows.items():
            linear = name.removesuffix(".weight")
            if linear in self._adapted:
                yield row.entry, *self._adapter(linear)

    def _adapter(self, linear: str) -> tuple[Tensor, Tensor]:
        names = [f"{linear}{SUFFIX}.{part}" for part in "ab"]
        template = {name: in_memory(self._shards[name], self.trained_in) for name in names}
        held = checkpoint_tensors.read_some(template, self.folder)
        return held[names[0]], held[names[1]]
