"""A model's dimensions from its config.json, and what follows from them: parameters by rank, operations, caches."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.weights.table import Entry, WeightTable
from alphamed_nemo.policy.weights.transforms import Replicated, RowParallel

SHIPPED = Path(__file__).parent / "models"  # config.json of the models that conf/model names


@dataclass(frozen=True)
class Model:
    """A dense decoder. Sizes are those of config.json, in Megatron's names where these are shorter."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    table: WeightTable

    @property
    def queries(self) -> int:
        """Features of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Features of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @cached_property
    def parameters(self) -> int:
        """Of the whole model; tied embeddings count once."""
        return sum(math.prod(shape) for shape in self.table.shapes().values())

    @cached_property
    def tensors(self) -> int:
        """Hugging Face tensors of a refit."""
        return len(self.table.shapes())

    @cached_property
    def mlp_matmul(self) -> int:
        """Parameters of one layer's MLP."""
        return 3 * self.hidden * self.ffn

    @cached_property
    def layer_matmul(self) -> int:
        """Parameters of one layer's matrices."""
        return 2 * self.hidden * (self.queries + self.keys) + self.mlp_matmul

    @property
    def head_matmul(self) -> int:
        """Parameters of the output projection."""
        return self.vocab * self.hidden

    def kv_bytes(self, element: int = 2) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.keys * element

    def layers_of(self, parallel: ParallelConfig, stage: int) -> list[list[int]]:
        """Numbers of the layers of each chunk of a pipeline stage."""
        chunks = parallel.virtual_pipeline or 1
        each = self.layers // (parallel.pipeline * chunks)
        starts = [(chunk * parallel.pipeline + stage) * each for chunk in range(chunks)]
        return [list(range(start, start + each)) for start in starts]

    def chunks_of(self, parallel: ParallelConfig, stage: int) -> list[list[tuple[int, bool]]]:
        """Each chunk's parameters on one rank of a stage, in the model's order.

        Returns:
            (elements, whether another stage holds the same parameter: the tied embedding).
        """
        blocks, last = self.table.blocks, parallel.pipeline - 1
        shared = self.tied and parallel.pipeline > 1
        chunks = []
        for index, layers in enumerate(self.layers_of(parallel, stage)):
            entries = [(entry, False) for layer in layers for entry in blocks[1 + layer].entries]
            if stage == 0 and index == 0:
                entries = [(entry, shared) for entry in blocks[0].entries] + entries
            if stage == last and index == (parallel.virtual_pipeline or 1) - 1:
                entries += [(entry, False) for entry in blocks[-1].entries]
                entries += [(self.table.output, True)] if shared else []
            chunks.append([(math.prod(local_shape(entry, parallel.tensor)), same) for entry, same in entries])
        return chunks


def local_shape(entry: Entry, tensor: int) -> tuple[int, ...]:
    """Shape of a row's Megatron parameter on one of `tensor` ranks, vocabulary padding included."""
    rows, rest = sum(shape[0] for _, shape in entry.hf), entry.hf[0][1][1:]
    if isinstance(entry.transform, Replicated):
        return (rows, *rest)
    if isinstance(entry.transform, RowParallel):
        return (rows, rest[0] // tensor)
    return (math.ceil(rows / tensor), *rest)


def load_model(path: str) -> Model:
    """The model of a Hugging Face folder, of a config.json, or of this package by the folder's name.

    Raises:
        ValueError: there is no such config, or it lacks a dimension.
    """
    name = Path(path).name
    candidates = (Path(path) / "config.json", Path(path), SHIPPED / f"{name}.json")
    found = next((candidate for candidate in candidates if path and candidate.is_file()), None)
    if found is None:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))
        problem = f": there is no config.json in {path}" if path else " is not set"
        raise ValueError(f"model.path{problem}; give a folder that has one, or name one of {known}")
    return model_of(name.removesuffix(".json"), json.loads(found.read_text()))


def model_of(name: str, config: dict) -> Model:
    """The model of a config.json's contents.

    Raises:
        ValueError: a dimension is missing, or the model is not one that can be built; names the key.
    """
    try:
        table = WeightTable(config)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    model = table.model
    return Model(
        name,
        model.hidden,
        model.features,
        model.layers,
        model.heads,
        model.groups,
        model.head_dim,
        model.vocab,
        model.tied,
        table,
    )
