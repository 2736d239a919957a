"""The table of names: which Hugging Face tensors make which Megatron parameter, and by which transform.

Families: Llama 3.x, Qwen2.5 (bias on query, key and value) and Qwen3 (norms on query and key heads), with tied or own
output embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from alphamed_nemo.policy.weights.transforms import (
    GateUp,
    QkvByGroup,
    Replicated,
    RowParallel,
    Transform,
    Vocabulary,
)

FAMILIES = ("llama", "qwen2", "qwen3")

# Tensors that a folder may hold and that no model reads: rotary buffers of old Llama checkpoints.
_IGNORED = re.compile(r"\.rotary_emb\.inv_freq$")


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


@dataclass(frozen=True)
class Block:
    """The rows that travel together: the embedding, one layer, or the head."""

    name: str
    entries: tuple[Entry, ...]


class WeightTable:
    """The rows of one model, in the order in which its weights are streamed.

    Attributes:
        blocks: embedding, layers, head.
        tied: the output projection is the embedding.
        output: the row of the output projection. With tied embeddings it reads the embedding and is in no block.
    """

    def __init__(self, hf_config: Any) -> None:
        _refuse_unsupported(hf_config)
        self.tied = bool(hf_config.tie_word_embeddings)
        self.layers = int(hf_config.num_hidden_layers)
        hidden, vocab = hf_config.hidden_size, hf_config.vocab_size

        table = Vocabulary(vocab)
        embedding = Entry(
            ("embedding.word_embeddings.weight",), (("model.embed_tokens.weight", (vocab, hidden)),), table
        )
        norm = Entry(("decoder.final_layernorm.weight",), (("model.norm.weight", (hidden,)),), Replicated())
        self.output = Entry(("output_layer.weight",), (("lm_head.weight", (vocab, hidden)),), table)
        head = (norm,) if self.tied else (norm, self.output)
        if self.tied:
            self.output = replace(self.output, hf=embedding.hf)

        rows = _layer_rows(hf_config)
        self.blocks = [Block("embedding", (embedding,))]
        self.blocks += [Block(f"layer {n}", tuple(_of_layer(row, n) for row in rows)) for n in range(self.layers)]
        self.blocks += [Block("head", head)]

    def entries(self) -> Iterator[Entry]:
        """All rows that are streamed, in order."""
        for block in self.blocks:
            yield from block.entries

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every Hugging Face tensor, in the order of streaming."""
        return {name: shape for entry in self.entries() for name, shape in entry.hf}

    def may_ignore(self, hf_name: str) -> bool:
        """Whether a folder may hold this tensor although the model does not read it."""
        return bool(_IGNORED.search(hf_name)) or (self.tied and hf_name == "lm_head.weight")


def hf_shapes(hf_config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `stream_hf` yields, in its order: the manifest of a refit or an export."""
    return WeightTable(hf_config).shapes()


def _layer_rows(hf_config: Any) -> list[Entry]:
    """The rows of one layer; `{n}` stands for its number."""
    hidden, features = hf_config.hidden_size, hf_config.intermediate_size
    heads, groups = hf_config.num_attention_heads, hf_config.num_key_value_heads
    head_dim = getattr(hf_config, "head_dim", None) or hidden // heads
    queries, keys = heads * head_dim, groups * head_dim
    qkv = QkvByGroup(heads, groups, head_dim)

    def row(megatron: str, hf: list[tuple[str, tuple[int, ...]]], transform: Transform) -> Entry:
        return Entry(
            tuple(f"decoder.layers.{{n}}.{name}" for name in megatron.split(" | ")),
            tuple((f"model.layers.{{n}}.{name}", shape) for name, shape in hf),
            transform,
        )

    rows = [
        row(
            "input_layernorm.weight | self_attention.linear_qkv.layer_norm_weight",
            [("input_layernorm.weight", (hidden,))],
            Replicated(),
        ),
        row(
            "self_attention.linear_qkv.weight",
            [
                ("self_attn.q_proj.weight", (queries, hidden)),
                ("self_attn.k_proj.weight", (keys, hidden)),
                ("self_attn.v_proj.weight", (keys, hidden)),
            ],
            qkv,
        ),
        row(
            "self_attention.linear_proj.weight", [("self_attn.o_proj.weight", (hidden, queries))], RowParallel(queries)
        ),
        row(
            "pre_mlp_layernorm.weight | mlp.linear_fc1.layer_norm_weight",
            [("post_attention_layernorm.weight", (hidden,))],
            Replicated(),
        ),
        row(
            "mlp.linear_fc1.weight",
            [("mlp.gate_proj.weight", (features, hidden)), ("mlp.up_proj.weight", (features, hidden))],
            GateUp(features),
        ),
        row("mlp.linear_fc2.weight", [("mlp.down_proj.weight", (hidden, features))], RowParallel(features)),
    ]
    if hf_config.model_type == "qwen2":
        biases = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)]
        rows.append(
            row("self_attention.linear_qkv.bias", [(f"self_attn.{p}.bias", (size,)) for p, size in biases], qkv)
        )
    if hf_config.model_type == "qwen3":
        for side in "qk":
            name = [(f"self_attn.{side}_norm.weight", (head_dim,))]
            rows.append(row(f"self_attention.{side}_layernorm.weight", name, Replicated()))
    return rows


def _of_layer(entry: Entry, n: int) -> Entry:
    return Entry(
        tuple(name.replace("{n}", str(n)) for name in entry.megatron),
        tuple((name.replace("{n}", str(n)), shape) for name, shape in entry.hf),
        entry.transform,
    )


def _refuse_unsupported(hf_config: Any) -> None:
    if hf_config.model_type not in FAMILIES:
        raise ValueError(
            f"config.json: model_type: found {hf_config.model_type!r}, expected one of {', '.join(FAMILIES)}"
        )
    for key in ("attention_bias", "mlp_bias"):
        if getattr(hf_config, key, False):
            raise ValueError(
                f"config.json: {key}: found true, expected false: the weight map has no row for these biases "
                "(Qwen2.5's bias on query, key and value is part of its family)"
            )
