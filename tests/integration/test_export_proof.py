"""The logits' half of a conversion's proof: right models pass whatever their size and type, and any fault is found."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export.float64 import Float64
from alphamed_nemo.export.logits import compare_logits, megatron_logits, probe, transformers_logits
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.stored import Read
from alphamed_nemo.policy.weights.table import WeightTable
from tests.spawn import spawn
from tests.tiny_hf import CONFIGS, write_model
from tests.unit.test_export_exact import perturbations

Weights = dict[str, Tensor]
LARGE = 11.0  # times the weights of the head and of the final norm: logits of 30 and more


def write(folder: Path, name: str, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Path:
    write_model(folder, name)
    weights = load_file(folder / "model.safetensors")
    for key, weight in weights.items():
        if key in ("model.norm.weight", "lm_head.weight"):
            weight *= scale
        elif "q_proj" in key or "q_norm" in key:
            weight *= scale**0.5  # attention to few tokens, which amplifies rounding errors
    save_weights(folder, {key: tensor.to(dtype) for key, tensor in weights.items()})
    return folder


def save_weights(folder: Path, weights: Weights) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def through_the_map(hf_config: Any, weights: Weights) -> Read:
    """Megatron's parameters, from Hugging Face's tensors."""
    rows = {bound.name: bound for bound in bind([build_skeleton(hf_config)], WeightTable(hf_config))}

    def read(names: list[str]) -> Weights:
        return {name: rows[name].entry.transform.shard(of(name), 0, 1, len(rows[name].parameter)) for name in names}

    def of(name: str) -> list[Tensor]:
        return [weights[key] for key in rows[name].entry.names]

    return read


def sequences(vocab: int) -> list[list[int]]:
    """Those of every proof, and one with every token, so that each row of the embedding takes part."""
    return [*probe(vocab), random.Random(1).sample(range(vocab), vocab)]


def megatron(hf_config: Any, weights: Weights) -> list[Tensor]:
    ids = sequences(hf_config.vocab_size)
    return megatron_logits(hf_config, through_the_map(hf_config, weights), ids, torch.float64)


def eager_logits(folder: Path, ids: list[list[int]]) -> list[Tensor]:
    """transformers' other attention, one sequence at a time, with all weights in memory."""
    model = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").double().eval()
    )
    with Float64(), torch.no_grad():
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        return [model(torch.tensor([sequence])).logits[0] for sequence in ids]


def right_ones(root: Path) -> list[tuple[str, float, float, float]]:
    """(model, largest logit, Megatron's difference and that of eager attention, each as a part of its limit)."""
    initialize(ParallelConfig())
    found = []
    for name in CONFIGS:
        for dtype in (torch.float32, torch.bfloat16):
            for scale in (1.0, LARGE):
                folder = write(root / f"{name} {dtype} {scale}", name, dtype, scale)
                config = AutoConfig.from_pretrained(folder)
                logits = megatron(config, load_file(folder / "model.safetensors"))
                ids = sequences(config.vocab_size)
                parts = [
                    difference / limit
                    for difference, limit in (
                        compare_logits(logits, folder, ids),
                        compare_logits(eager_logits(folder, ids), folder, ids),
                    )
                ]
                found.append((folder.name, max(row.abs().max().item() for row in logits), *parts))
    return found


def test_right_conversions_pass_far_below_the_limit(tmp_path):
    found = spawn(right_ones, 1, tmp_path)[0]
    assert len(found) == 32
    for name, largest, of_megatron, of_eager in found:
        assert largest > (30 if str(LARGE) in name else 1), name
        assert of_megatron < 0.1 and of_eager < 0.1, name


def refused(logits: list[Tensor], folder: Path, vocab: int) -> str:
    with pytest.raises(ConversionError) as error:
        compare_logits(logits, folder, sequences(vocab))
    return str(error.value)


def found_by_logits(root: Path, name: str, dtype: torch.dtype) -> list[str]:
    """What is said of each perturbation of the folder."""
    initialize(ParallelConfig())
    folder = write(root, name, dtype)
    config, weights = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    logits = megatron(config, weights)
    messages = []
    for perturb in perturbations(name).values():
        other = dict(weights)
        perturb(other)
        save_weights(folder, {key: tensor.contiguous() for key, tensor in other.items()})
        messages.append(refused(logits, folder, config.vocab_size))
    return messages


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", torch.float32),
        ("llama-scaled-rope-tied", torch.bfloat16),
        ("qwen2", torch.bfloat16),
        ("qwen2-tied", torch.float32),
        ("qwen3", torch.float32),
        ("qwen3-tied", torch.bfloat16),
    ],
)
def test_the_logits_alone_find_every_perturbation(tmp_path, name, dtype):
    messages = spawn(found_by_logits, 1, tmp_path / "model", name, dtype)[0]
    assert len(messages) == len(perturbations(name))
    for message in messages:
        assert message.startswith("logit of token ") and "\n" not in message
        assert message.endswith(("the conversion is wrong", "the weights are damaged or too large"))


def exchange(one: str, other: str) -> Callable[[Weights], Weights]:
    """What a map would read that takes one tensor for the other, in both directions."""
    names = {one: other, other: one}

    def exchanged(weights: Weights) -> Weights:
        changed = dict(weights)
        for key in weights:
            for part, taken in names.items():
                if part in key:
                    changed[key] = weights[key.replace(part, taken)]
        return changed

    return exchanged


def heads_in_another_order(weights: Weights) -> Weights:
    """A map that deals query heads out to groups in turn, where each group has neighbours."""
    return {
        key: tensor.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(0, 2) if ".q_proj." in key else tensor
        for key, tensor in weights.items()
    }


WRONG_MAPS = {
    "gate and up": exchange("gate_proj", "up_proj"),
    "keys and values": exchange("k_proj", "v_proj"),
    "norms": exchange("input_layernorm", "post_attention_layernorm"),
    "head order": heads_in_another_order,
    "norms of queries and keys": exchange("q_norm", "k_norm"),
}
WRONG_CONFIGS: dict[str, Callable[[Any], Any]] = {
    "rms_norm_eps": lambda config: setattr(config, "rms_norm_eps", 1.01 * config.rms_norm_eps),
    "rope_theta": lambda config: config.rope_parameters.update(rope_theta=10000.01),
    "factor": lambda config: config.rope_parameters.update(factor=8.001),
    "low_freq_factor": lambda config: config.rope_parameters.update(low_freq_factor=1.001),
}


def faults_of_the_map(root: Path) -> dict[str, str]:
    initialize(ParallelConfig())
    messages = {}
    for name in ("qwen3", "llama-scaled-rope"):
        folder = write(root / name, name)
        config, weights = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
        for what, mistaken in WRONG_MAPS.items() if name == "qwen3" else ():
            messages[what] = refused(megatron(config, mistaken(weights)), folder, config.vocab_size)
        for what, mistake in WRONG_CONFIGS.items():
            if name == "qwen3" and "factor" in what:
                continue
            other = copy.deepcopy(config)
            mistake(other)
            messages[f"{name} {what}"] = refused(megatron(other, weights), folder, config.vocab_size)
    return messages


def test_faults_that_no_tensor_shows_are_found_by_the_logits(tmp_path):
    """A map that is wrong in both directions, and a setting that Megatron and transformers take differently."""
    messages = spawn(faults_of_the_map, 1, tmp_path)[0]
    assert len(messages) == len(WRONG_MAPS) + len(WRONG_CONFIGS) + 2


def overflowing(root: Path) -> str:
    initialize(ParallelConfig())
    folder = write(root, "llama")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 1e38
    save_weights(folder, weights)
    config = AutoConfig.from_pretrained(folder)
    return refused(megatron(config, weights), folder, config.vocab_size)


def test_a_model_that_overflows_float32_is_refused(tmp_path):
    message = spawn(overflowing, 1, tmp_path / "model")[0]
    assert "transformers computes " in message and "inf in float32, expected a finite number" in message


def test_transformers_in_float64_has_no_float32_left_in_it(tmp_path):
    """Against an independent float64 computation of Llama's formulas."""
    folder = write(tmp_path, "llama")
    weights = {key: tensor.double() for key, tensor in load_file(folder / "model.safetensors").items()}
    ids = probe(64)[2]
    (logits,) = transformers_logits(folder, [ids], torch.float64)
    expected = llama_logits(CONFIGS["llama"], weights, torch.tensor(ids))
    assert logits.dtype is torch.float64 and (logits - expected).abs().max() < 1e-12
    (rounded,) = transformers_logits(folder, [ids], torch.float32)
    assert 1e-8 < (rounded - expected).abs().max() < 1e-4


def llama_logits(config: Any, weights: Weights, ids: Tensor) -> Tensor:
    """Llama by its formulas: RMSNorm, rotary embedding by complex numbers, grouped causal attention, SwiGLU."""
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    length = len(ids)
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.complex(*x.chunk(2, dim=-1)) * turn
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    hidden = weights["model.embed_tokens.weight"][ids]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    for n in range(config.num_hidden_layers):
        of = f"model.layers.{n}."
        x = norm(hidden, f"{of}input_layernorm.weight")
        q, k, v = (x @ weights[f"{of}self_attn.{side}_proj.weight"].T for side in "qkv")
        q, k = rotated(q.view(length, heads, size)), rotated(k.view(length, groups, size))
        k, v = (t.view(length, groups, size).repeat_interleave(heads // groups, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
        seen = scores.masked_fill(future, -torch.inf).softmax(-1)
        attended = torch.einsum("hqk,khd->qhd", seen, v).flatten(1)
        hidden = hidden + attended @ weights[f"{of}self_attn.o_proj.weight"].T
        x = norm(hidden, f"{of}post_attention_layernorm.weight")
        gate, up = (x @ weights[f"{of}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        hidden = hidden + (gate / (1 + (-gate).exp()) * up) @ weights[f"{of}mlp.down_proj.weight"].T
    return norm(hidden, "model.norm.weight") @ weights["lm_head.weight"].T
