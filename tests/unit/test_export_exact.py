"""A tensor of a folder that is not the checkpoint's is found by name and place, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export.exact import compare_tensors
from alphamed_nemo.policy.weights.table import Entry, WeightTable
from tests.tiny_hf import CONFIGS

FAMILIES = ("llama", "llama-tied-odd-vocabulary", "qwen2", "qwen2-tied", "qwen3", "qwen3-tied")
ATTENTION, MLP = "model.layers.2.self_attn", "model.layers.2.mlp"
Weights = dict[str, Tensor]


def weights_of(name: str, dtype: torch.dtype) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = WeightTable(CONFIGS[name]).shapes()
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def megatron(table: WeightTable, weights: Weights) -> Callable[[Sequence[Entry]], dict[Entry, Tensor]]:
    """The parameters of one rank, as a checkpoint would give them."""

    def read(entries: Sequence[Entry]) -> dict[Entry, Tensor]:
        rows = {entry: sum(shape[0] for _, shape in entry.hf) for entry in entries}
        return {
            entry: entry.transform.shard([weights[name] for name in entry.names], 0, 1, rows[entry]) for entry in rows
        }

    return read


def exchange(weights: Weights, one: str, other: str) -> None:
    weights[one], weights[other] = weights[other], weights[one]


def edit(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights], None]:
    def perturb(weights: Weights) -> None:
        weights[name] = change(weights[name].clone())

    return perturb


def exchange_layers(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("model.layers.1.")]:
        exchange(weights, name, name.replace("layers.1.", "layers.3."))


def least_step(tensor: Tensor) -> Tensor:
    """One element by one unit in its last place."""
    bits = tensor.view(torch.int32 if tensor.dtype is torch.float32 else torch.int16)
    bits.view(-1)[bits.numel() // 2] += 1
    return tensor


def rows_exchanged(tensor: Tensor) -> Tensor:
    return tensor[[1, 0, *range(2, len(tensor))]]


PERTURBATIONS: dict[str, Callable[[Weights], None]] = {
    **{f"heads of {p} rolled": edit(f"{ATTENTION}.{p}_proj.weight", lambda t: t.roll(8, 0)) for p in "qkv"},
    "rows of q exchanged": edit(f"{ATTENTION}.q_proj.weight", rows_exchanged),
    "columns of o rolled": edit(f"{ATTENTION}.o_proj.weight", lambda t: t.roll(8, 1)),
    "k and v exchanged": lambda w: exchange(w, f"{ATTENTION}.k_proj.weight", f"{ATTENTION}.v_proj.weight"),
    "gate and up exchanged": lambda w: exchange(w, f"{MLP}.gate_proj.weight", f"{MLP}.up_proj.weight"),
    "down scaled": edit(f"{MLP}.down_proj.weight", lambda t: t * 1.01),
    "norm scaled": edit("model.layers.2.input_layernorm.weight", lambda t: t * 1.01),
    "norms exchanged": lambda w: exchange(
        w, "model.layers.2.input_layernorm.weight", "model.layers.2.post_attention_layernorm.weight"
    ),
    "final norm": edit("model.norm.weight", least_step),
    "layers exchanged": exchange_layers,
    "rows of the embedding exchanged": edit("model.embed_tokens.weight", rows_exchanged),
    "last row of the embedding": edit("model.embed_tokens.weight", lambda t: torch.cat([t[:-1], t[-1:] * 0])),
    "sign of a zero": edit("model.embed_tokens.weight", lambda t: torch.cat([t[:1] * 0, t[1:]])),
    "one element by the least step": edit(f"{MLP}.up_proj.weight", least_step),
    "not a number": edit(f"{MLP}.up_proj.weight", lambda t: torch.cat([t[:1] * torch.nan, t[1:]])),
}
OF_FAMILY: dict[str, dict[str, Callable[[Weights], None]]] = {
    "untied": {"head rolled": edit("lm_head.weight", lambda t: t.roll(1, 0))},
    "qwen2": {f"bias of {p} rolled": edit(f"{ATTENTION}.{p}_proj.bias", lambda t: t.roll(8, 0)) for p in "qkv"}
    | {"bias left out": edit(f"{ATTENTION}.q_proj.bias", lambda t: t * 0)},
    "qwen3": {f"norm of {p}": edit(f"{ATTENTION}.{p}_norm.weight", least_step) for p in "qk"}
    | {"norms of q and k exchanged": lambda w: exchange(w, f"{ATTENTION}.q_norm.weight", f"{ATTENTION}.k_norm.weight")},
}


def perturbations(name: str) -> dict[str, Callable[[Weights], None]]:
    tied = CONFIGS[name].tie_word_embeddings
    return PERTURBATIONS | OF_FAMILY.get(name.split("-")[0], {}) | ({} if tied else OF_FAMILY["untied"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_perturbation_is_found_by_name(tmp_path, name, dtype):
    table, weights = WeightTable(CONFIGS[name]), weights_of(name, dtype)
    read = megatron(table, weights)
    save_file(weights, tmp_path / "model.safetensors")
    assert compare_tensors(table, read, tmp_path, dtype, "folder") == len(weights)
    for what, perturb in perturbations(name).items():
        other = dict(weights)
        perturb(other)
        changed = [key for key in weights if not torch.equal(bits(other[key]), bits(weights[key]))]
        assert changed, what
        save_file(other, tmp_path / "model.safetensors")
        with pytest.raises(ConversionError) as error:
            compare_tensors(table, read, tmp_path, dtype, "folder")
        assert str(error.value).startswith(tuple(f"{key}[" for key in changed)), what
        assert "\n" not in str(error.value)
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(ConversionError):  # and the other way round, in the checkpoint
            compare_tensors(table, megatron(table, other), tmp_path, dtype, "checkpoint")


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype is torch.float32 else torch.int16)


def test_rounding_is_what_was_asked_for_and_nothing_else(tmp_path):
    """A float32 checkpoint becomes a bfloat16 folder; one matrix of a float32 folder in bfloat16 is found."""
    table, weights = WeightTable(CONFIGS["llama"]), weights_of("llama", torch.float32)
    read = megatron(table, weights)
    save_file({key: tensor.bfloat16() for key, tensor in weights.items()}, tmp_path / "model.safetensors")
    compare_tensors(table, read, tmp_path, torch.bfloat16, "folder")
    with pytest.raises(ConversionError, match=r"^model.embed_tokens.weight\[0, 0\]: found .* elements differ"):
        compare_tensors(table, read, tmp_path, torch.float32, "folder")
    key = f"{MLP}.down_proj.weight"
    save_file(weights | {key: weights[key].bfloat16().float()}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=rf"^{key}\[0, \d+\]: found"):
        compare_tensors(table, read, tmp_path, torch.float32, "folder")
    truncated = {key: (tensor.view(torch.int32) & ~0xFFFF).view(torch.float32) for key, tensor in weights.items()}
    save_file({key: tensor.bfloat16() for key, tensor in truncated.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match="elements differ"):  # towards zero instead of to the nearest
        compare_tensors(table, read, tmp_path, torch.bfloat16, "folder")


def test_no_tensor_is_missing_and_none_is_extra(tmp_path):
    table, weights = WeightTable(CONFIGS["llama"]), weights_of("llama", torch.float32)
    read, key = megatron(table, weights), "model.layers.1.mlp.up_proj.weight"
    save_file({name: tensor for name, tensor in weights.items() if name != key}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=f"tensors? .*missing.*{key}"):
        compare_tensors(table, read, tmp_path, torch.float32, "folder")
    save_file(weights | {"model.extra.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match="not expected: model.extra.weight"):
        compare_tensors(table, read, tmp_path, torch.float32, "folder")


def test_a_refusal_says_what_was_made_and_what_was_expected(tmp_path):
    table, weights = WeightTable(CONFIGS["qwen3"]), weights_of("qwen3", torch.float32)
    other = dict(weights)
    other["model.norm.weight"] = weights["model.norm.weight"].clone()
    other["model.norm.weight"][7] = 0.5
    weights["model.norm.weight"][7] = 2.0
    save_file(other, tmp_path / "model.safetensors")
    for made, found, expected in (("folder", "0.5", "checkpoint's 2 "), ("checkpoint", "2", "folder's 0.5 ")):
        with pytest.raises(ConversionError) as error:
            compare_tensors(table, megatron(table, weights), tmp_path, torch.float32, made)
        assert f"model.norm.weight[7]: found {found} in the {made}, expected the {expected}" in str(error.value)


def test_a_map_whose_directions_disagree_is_found(tmp_path, monkeypatch):
    """The proof takes each tensor both ways, so that a fault in one of them cannot hide behind itself."""
    table, weights = WeightTable(CONFIGS["llama"]), weights_of("llama", torch.float32)
    read = megatron(table, weights)
    save_file(weights, tmp_path / "model.safetensors")
    gate_up = type(next(entry for entry in table.entries() if "linear_fc1" in entry.megatron[0]).transform)
    monkeypatch.setattr(gate_up, "shard", lambda self, sources, *_: torch.cat([s[:] for s in reversed(sources)]))
    with pytest.raises(ConversionError, match=r"^decoder.layers.0.mlp.linear_fc1.weight\[0, 0\]"):
        compare_tensors(
            table, lambda entries: read_before(read, table, weights, entries), tmp_path, torch.float32, "folder"
        )


def read_before(read, table, weights, entries):
    """Parameters as they were before the map was changed."""
    return {
        entry: torch.cat([weights[name] for name in entry.names])
        if "linear_fc1" in entry.megatron[0]
        else read([entry])[entry]
        for entry in entries
    }
