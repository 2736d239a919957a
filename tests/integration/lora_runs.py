"""Adapters whose whole matrices are known, in policies of any layout, and what they stand for on one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import LoraConfig
from alphamed_nemo.policy.lora import Adapter
from alphamed_nemo.policy.weights.binding import bind
from alphamed_nemo.policy.weights.table import Entry, WeightTable

LORA = LoraConfig(rank=3, alpha=12.0)
Adapters = dict[str, tuple[Tensor, list[Tensor]]]  # by Megatron's name of the weight: A, and B of each HF matrix


def rows_of(hf: str) -> dict[str, Entry]:
    """The matrices of the layers, by the name of Megatron's weight."""
    entries = WeightTable(AutoConfig.from_pretrained(hf)).entries()
    return {entry.megatron[0]: entry for entry in entries if "linear" in entry.megatron[0] and len(entry.hf[0][1]) == 2}


def drawn(hf: str, rank: int = LORA.rank) -> Adapters:
    """Whole adapters, B not zero, float64."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name, entry in rows_of(hf).items():
        a = torch.randn(rank, entry.hf[0][1][1], generator=generator) / 8
        found[name] = (
            a.double(),
            [torch.randn(shape[0], rank, generator=generator).double() / 8 for _, shape in entry.hf],
        )
    return found


def cut(entry: Entry, a: Tensor, b: list[Tensor], rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    """What a tensor-parallel rank holds: some rows of B beside a column-parallel weight, else some columns of A."""
    if len(entry.hf) == 1:
        return a.chunk(ranks, dim=1)[rank], b[0]
    return a, entry.transform.shard(b, rank, ranks, sum(map(len, b)) // ranks)


def held(policy: Any) -> dict[str, Adapter]:
    """This rank's adapters, by the name of their weight."""
    bound = bind(policy.model, WeightTable(policy.hf_config))
    return {each.name: each.adapter for each in bound if each.adapter is not None}


@torch.no_grad()
def put(policy: Any, adapters: Adapters) -> None:
    """Writes whole adapters into a policy of any layout."""
    table = rows_of(str(policy.hf_path))
    rank, ranks = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    for name, adapter in held(policy).items():
        a, b = cut(table[name], *adapters[name], rank, ranks)
        adapter.a.copy_(a)
        adapter.b.copy_(b)


def write_merged(hf: str, adapters: Adapters, out: Path) -> str:
    """transformers' model with W + (alpha / rank) B A in float64, as a folder."""
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float64)
    weights = model.state_dict()
    for name, entry in rows_of(hf).items():
        a, b = adapters[name]
        for (matrix, _), rows in zip(entry.hf, b, strict=True):
            weights[matrix] += LORA.alpha / LORA.rank * rows @ a
    model.save_pretrained(out)
    return str(out)


def adapter_gradients(hf: str, adapters: Adapters, of_weights: dict[str, Tensor]) -> Adapters:
    """∂A = scale · Σ Bᵀ ∂W over the matrices that share A, and ∂B = scale · ∂W Aᵀ."""
    found = {}
    for name, entry in rows_of(hf).items():
        (a, b), gradients = adapters[name], [of_weights[matrix] for matrix, _ in entry.hf]
        of_a = sum(rows.T @ gradient for rows, gradient in zip(b, gradients, strict=True))
        scale = LORA.alpha / LORA.rank
        found[name] = (scale * of_a, [scale * gradient @ a.T for gradient in gradients])
    return found
