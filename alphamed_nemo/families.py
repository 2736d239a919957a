"""Model families that Megatron builds exactly as transformers does, and what a config.json makes of one.

A family is one row of `FAMILIES`; `model.families` adds rows of the user's own. Everything here is decided from the
plain contents of config.json, before any process starts and without torch: what is refused, the defaults that
transformers takes where a key is missing, the size of a head, whether the embeddings are tied, and the tensors that the
model has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alphamed_nemo import user_code

ROPE_TYPES = ("default", "llama3")
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# Tensors that a folder may hold and that neither framework reads: rotary buffers of old Llama checkpoints, which are
# computed from config.json.
_BUFFERS = re.compile(r"\.rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$")


@dataclass(frozen=True)
class Family:
    """How one `model_type` differs from the others.

    Attributes:
        qkv_bias: biases on query, key and value.
        qk_norm: norms on query and key heads.
        key_value_heads: where config.json has no such key; None: as many as query heads.
        head_dim: likewise; None: hidden size / query heads.
        fixed: keys that may have one value only, which is also transformers' default unless `stated` has the key.
        stated: keys of `fixed` that config.json must have, since transformers takes another value without them.
    """

    qkv_bias: bool
    qk_norm: bool
    key_value_heads: int | None
    head_dim: int | None
    fixed: Mapping[str, Any]
    stated: tuple[str, ...] = ()


FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "is_causal": True,
    "quantization_config": None,
}
# Qwen's window counts only where `use_sliding_window` is true; every config.json of theirs names one.
_FIXED_QWEN = FIXED | {"use_sliding_window": False}
FAMILIES: dict[str, Family] = {
    "llama": Family(False, False, None, None, FIXED | {"use_sliding_window": False, "sliding_window": None}),
    "qwen2": Family(True, False, 32, None, _FIXED_QWEN),
    "qwen3": Family(False, True, 32, 128, _FIXED_QWEN),
}


@dataclass(frozen=True)
class Dimensions:
    """What decides names and shapes of a model's tensors.

    Attributes:
        features: rows of gate, and of up.
        heads, groups: query heads and key-value heads.
        head_dim: features of one head.
        tied: the output projection is the embedding.
    """

    family: Family
    hidden: int
    features: int
    layers: int
    heads: int
    groups: int
    head_dim: int
    vocab: int
    tied: bool

    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name, behind `model.layers.<n>.`, and shape of one layer's Hugging Face tensors."""
        queries, keys = self.heads * self.head_dim, self.groups * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.features, self.hidden),
            "mlp.up_proj.weight": (self.features, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.features),
        }
        if self.family.qkv_bias:
            sizes = {"q": queries, "k": keys, "v": keys}
            shapes |= {f"self_attn.{side}_proj.bias": (size,) for side, size in sizes.items()}
        if self.family.qk_norm:
            shapes |= {f"self_attn.{side}_norm.weight": (self.head_dim,) for side in "qk"}
        return shapes

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every Hugging Face tensor of the model."""
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, self.hidden)}
        for n in range(self.layers):
            shapes |= {f"model.layers.{n}.{name}": shape for name, shape in self.layer_tensors().items()}
        shapes["model.norm.weight"] = (self.hidden,)
        return shapes if self.tied else shapes | {HEAD: (self.vocab, self.hidden)}

    def may_ignore(self, name: str) -> bool:
        """`is_ignored` for this model."""
        return is_ignored(name, self.tied)


def register(places: Iterable[str]) -> None:
    """Adds the rows of `model.families`, each `file.py:NAME` of a dict model_type → Family. Runs the user's files.

    Raises:
        ValueError: a place cannot be loaded, holds something else, or a row that is there already.
    """
    for place in places:
        rows = user_code.load(place, "model.families")
        if not isinstance(rows, Mapping) or not all(isinstance(row, Family) for row in rows.values()):
            raise ValueError(f"model.families: {place} is no dict of model_type → alphamed_nemo.families.Family")
        for model_type, row in rows.items():
            if FAMILIES.get(model_type, row) != row:
                raise ValueError(f"model.families: {place} has another {model_type!r} than is there already")
            FAMILIES[model_type] = row


def family_of(model_type: Any) -> Family:
    """The row of a `model_type`.

    Raises:
        ValueError: there is none.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"config.json: model_type: found {model_type!r}, expected one of {', '.join(FAMILIES)}; "
            "model.families adds one of your own"
        )
    return FAMILIES[model_type]


def dimensions(config: Any) -> Dimensions:
    """The model of a config.json, refused where Megatron would build another one.

    Args:
        config: the contents of config.json, or transformers' config object.

    Raises:
        ValueError: one line with the key, what was found and what was expected.
    """
    values = _Values(config)
    family = family_of(values.get("model_type"))
    hidden, features, layers, heads, vocab = (values.count(key) for key in SIZES)
    groups = values.count("num_key_value_heads", family.key_value_heads, heads)
    head_dim = values.count("head_dim", family.head_dim, hidden // heads)
    for problem in (*_unlike(values, family), *_misfits(hidden, heads, groups, head_dim), *_rope_problems(values)):
        raise ValueError(f"config.json: {problem}")
    return Dimensions(family, hidden, features, layers, heads, groups, head_dim, vocab, is_tied(config))


def is_tied(config: Any) -> bool:
    """Whether the output projection is the embedding. `config` as for `dimensions`."""
    return bool(_Values(config).get("tie_word_embeddings", False))


def is_ignored(name: str, tied: bool) -> bool:
    """Whether a folder may hold this tensor although the model does not read it.

    A head beside tied embeddings may be there only where it is the embedding once more (`weight_files.py`).
    """
    return bool(_BUFFERS.search(name)) or (tied and name == HEAD)


class _Values:
    """The keys of a config.json, or the attributes of transformers' config."""

    def __init__(self, config: Any) -> None:
        self._config = config if isinstance(config, Mapping) else None
        self._object = config

    def get(self, key: str, default: Any = None) -> Any:
        return self._config.get(key, default) if self._config is not None else getattr(self._object, key, default)

    def has(self, key: str) -> bool:
        return key in self._config if self._config is not None else hasattr(self._object, key)

    def count(self, key: str, missing: int | None = None, null: int | None = None) -> int:
        """A positive whole number. `missing` stands for a key that is not there, `null` for null and for `missing` of
        None."""
        value = self.get(key, missing)
        value = null if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found = "no such key" if value is None else repr(value)
            raise ValueError(f"config.json: {key}: found {found}, expected a positive whole number")
        return value


def _unlike(values: _Values, family: Family) -> Iterator[str]:
    """Keys that make the model another one than its family."""
    for key, expected in family.fixed.items():
        if key in family.stated and not values.has(key):
            yield f"{key}: found no such key, expected {expected!r}: transformers takes another value then"
        found = values.get(key, expected)
        if found != expected:
            found = found if not isinstance(found, Mapping) else found.get("quant_method", "an entry")
            yield f"{key}: found {found!r}, expected {expected!r}: nothing else is built here"
    kinds = sorted(set(values.get("layer_types") or ()) - {"full_attention"})
    if kinds:
        yield f"layer_types: found {', '.join(kinds)}, expected full_attention in every layer"


def _misfits(hidden: int, heads: int, groups: int, head_dim: int) -> Iterator[str]:
    if heads % groups:
        yield f"num_key_value_heads: found {groups}, expected a divisor of the {heads} query heads"
    if head_dim % 2:
        yield f"head_dim: found {head_dim}, expected an even number, whose halves the rotary embedding pairs"


def _rope_problems(values: _Values) -> Iterator[str]:
    """Rotary embeddings other than plain ones and Llama 3.1's."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        yield f"{key}: found {rope!r}, expected one set of parameters for all layers"
        return
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        yield f"{key}: found rope_type {kind!r}, expected one of {', '.join(ROPE_TYPES)}"
    for part in (rope.get("partial_rotary_factor"), values.get("partial_rotary_factor")):
        if part not in (None, 1, 1.0):
            yield f"partial_rotary_factor: found {part!r}, expected 1: all of a head is turned"
    needed = ("factor", "low_freq_factor", "high_freq_factor") if kind == "llama3" else ()
    numbers = {name: rope.get(name) for name in needed}
    theta = rope.get("rope_theta", values.get("rope_theta"))
    for name, value in (numbers if theta is None else numbers | {"rope_theta": theta}).items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            yield f"{key}: found {name} {value!r}, expected a positive number"
    if needed and numbers["low_freq_factor"] == numbers["high_freq_factor"]:
        yield f"{key}: found low_freq_factor and high_freq_factor {numbers['low_freq_factor']}, expected two numbers"
