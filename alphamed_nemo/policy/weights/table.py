"""The table of names: which Hugging Face tensors make which Megatron parameter, and by which transform.

Families: Llama 3.x, Qwen2.5 (bias on query, key and value) and Qwen3 (norms on query and key heads), with tied or own
output embeddings. Which tensors a model has, and their shapes, is said by `alphamed_nemo/families.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from alphamed_nemo.families import EMBEDDING, HEAD, Dimensions, dimensions
from alphamed_nemo.policy.weights.transforms import (
    GateUp,
    QkvByGroup,
    Replicated,
    RowParallel,
    Transform,
    Vocabulary,
)


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        megatron: names of the parameter, one of which the model has: Megatron's local layer spec, and Transformer
            Engine's, which keeps a norm inside the linear layer that follows it.
        hf: names and shapes of the Hugging Face tensors.
        transform: how the numbers are rearranged.
    """

    megatron: tuple[str, ...]
    hf: tuple[tuple[str, tuple[int, ...]], ...]
    transform: Transform

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.hf]

    def merge(self, shards: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The Hugging Face tensors by name, from the parameter's shards in the order of tensor-parallel ranks."""
        for (name, shape), tensor in zip(self.hf, self.transform.merge(shards), strict=True):
            assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} instead of {shape}"
            yield name, tensor.contiguous()

    def adapter_rows(self, b: Tensor) -> list[Tensor]:
        """Of each Hugging Face matrix, its rows of the B [out, rank] of an adapter of the whole parameter."""
        return [b] if isinstance(self.transform, RowParallel) else self.transform.merge([b])


@dataclass(frozen=True)
class Block:
    """The rows that travel together: the embedding, one layer, or the head."""

    name: str
    entries: tuple[Entry, ...]


class WeightTable:
    """The rows of one model, in the order in which its weights are streamed.

    Args:
        config: transformers' config, or the contents of config.json.

    Attributes:
        model: what the config says.
        blocks: embedding, layers, head.
        tied: the output projection is the embedding.
        output: the row of the output projection. With tied embeddings it reads the embedding and is in no block.

    Raises:
        ValueError: a model that cannot be built; names the key.
    """

    def __init__(self, config: Any) -> None:
        model = self.model = dimensions(config)
        self.tied, self.layers = model.tied, model.layers

        table = Vocabulary(model.vocab)
        matrix = (model.vocab, model.hidden)
        embedding = Entry(("embedding.word_embeddings.weight",), ((EMBEDDING, matrix),), table)
        norm = Entry(("decoder.final_layernorm.weight",), (("model.norm.weight", (model.hidden,)),), Replicated())
        self.output = Entry(("output_layer.weight",), ((HEAD, matrix),), table)
        head = (norm,) if self.tied else (norm, self.output)
        if self.tied:
            self.output = replace(self.output, hf=embedding.hf)

        rows = _layer_rows(model)
        self.blocks = [Block("embedding", (embedding,))]
        self.blocks += [Block(f"layer {n}", tuple(_of_layer(row, n) for row in rows)) for n in range(self.layers)]
        self.blocks += [Block("head", head)]
        assert self.shapes() == model.tensors(), "a tensor of the family is in no row"

    def entries(self) -> Iterator[Entry]:
        """All rows that are streamed, in order."""
        for block in self.blocks:
            yield from block.entries

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every Hugging Face tensor, in the order of streaming."""
        return {name: shape for entry in self.entries() for name, shape in entry.hf}


def hf_shapes(hf_config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `stream_hf` yields, in its order: the manifest of a refit or an export."""
    return WeightTable(hf_config).shapes()


def _layer_rows(model: Dimensions) -> list[Entry]:
    """The rows of one layer; `{n}` stands for its number."""
    shapes = model.layer_tensors()
    qkv = QkvByGroup(model.heads, model.groups, model.head_dim)

    def row(megatron: str, hf: Sequence[str], transform: Transform) -> Entry:
        return Entry(
            tuple(f"decoder.layers.{{n}}.{name}" for name in megatron.split(" | ")),
            tuple((f"model.layers.{{n}}.{name}", shapes[name]) for name in hf),
            transform,
        )

    rows = [
        row(
            "input_layernorm.weight | self_attention.linear_qkv.layer_norm_weight",
            ["input_layernorm.weight"],
            Replicated(),
        ),
        row("self_attention.linear_qkv.weight", [f"self_attn.{side}_proj.weight" for side in "qkv"], qkv),
        row(
            "self_attention.linear_proj.weight", ["self_attn.o_proj.weight"], RowParallel(model.heads * model.head_dim)
        ),
        row(
            "pre_mlp_layernorm.weight | mlp.linear_fc1.layer_norm_weight",
            ["post_attention_layernorm.weight"],
            Replicated(),
        ),
        row("mlp.linear_fc1.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], GateUp(model.features)),
        row("mlp.linear_fc2.weight", ["mlp.down_proj.weight"], RowParallel(model.features)),
    ]
    if model.family.qkv_bias:
        rows.append(row("self_attention.linear_qkv.bias", [f"self_attn.{side}_proj.bias" for side in "qkv"], qkv))
    if model.family.qk_norm:
        rows += [
            row(f"self_attention.{side}_layernorm.weight", [f"self_attn.{side}_norm.weight"], Replicated())
            for side in "qk"
        ]
    return rows


def _of_layer(entry: Entry, n: int) -> Entry:
    return Entry(
        tuple(name.replace("{n}", str(n)) for name in entry.megatron),
        tuple((name.replace("{n}", str(n)), shape) for name, shape in entry.hf),
        entry.transform,
    )
