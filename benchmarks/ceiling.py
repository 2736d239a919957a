"""The policy's training step beside the bare matrix products that it is made of, on every data-parallel rank at once.

torchrun -m benchmarks.ceiling MODEL_FOLDER DTYPE REPEATS OUTPUT.json
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist

from alphamed_nemo.config import GrpoConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy

PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 16, 8, 101, 64


def sequences(vocab: int) -> list[TrainSequence]:
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(count)]

    prompts = [ids(PROMPT_TOKENS) for _ in range(PROMPTS)]
    return [
        TrainSequence(prompt, ids(NEW_TOKENS), rng.gauss(0, 1), [-8.0] * NEW_TOKENS)
        for prompt in prompts
        for _ in range(SAMPLES)
    ]


@dataclass(frozen=True)
class Product:
    """`batch` matrix products [rows, inner] × [inner, columns] of one forward pass, `times` over."""

    rows: int
    inner: int
    columns: int
    times: int
    batch: int = 1

    @property
    def flops(self) -> int:
        """Forward and backward."""
        return 3 * 2 * self.batch * self.rows * self.inner * self.columns * self.times


def products(config, tokens: int, responses: int) -> list[Product]:
    """Of the linear layers."""
    hidden, ffn, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = hidden // config.num_attention_heads
    qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * head
    return [
        Product(tokens, hidden, qkv, layers),
        Product(tokens, hidden, hidden, layers),
        Product(tokens, hidden, 2 * ffn, layers),
        Product(tokens, ffn, hidden, layers),
        Product(responses, hidden, config.vocab_size, 1),
    ]


def attention_products(config, pack: PackedBatch) -> list[Product]:
    """Queries with keys and weights with values, over the keys that a segment may see, before the causal mask."""
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    head = config.hidden_size // heads
    lengths = pack.cu_seqlens.diff().tolist()
    parents = [-1] * len(lengths) if pack.continues is None else pack.continues.tolist()
    segments = Counter(
        (length, length + (lengths[parent] if parent >= 0 else 0))
        for length, parent in zip(lengths, parents, strict=True)
    )
    return [
        product
        for (queries, keys), count in segments.items()
        for product in (
            Product(queries, head, keys, layers, count * heads),
            Product(queries, keys, head, layers, count * heads),
        )
    ]


def bare_seconds(found: list[Product], dtype: torch.dtype) -> float:
    """Of a forward and a backward pass: x·Wᵀ, g·W and gᵀ·x for each product, by torch.mm or torch.bmm."""
    total = 0.0
    for each in found:
        shapes = (each.rows, each.inner), (each.columns, each.inner), (each.rows, each.columns)
        batch, multiply = ((), torch.mm) if each.batch == 1 else ((each.batch,), torch.bmm)
        x, w, g = (torch.randn(*batch, *shape, dtype=dtype) for shape in shapes)
        started = time.perf_counter()
        for _ in range(each.times):
            multiply(x, w.mT)
            multiply(g, w)
            multiply(g.mT, x)
        total += time.perf_counter() - started
    return total


def main(model: str, dtype: Dtype, repeats: int) -> dict:
    ranks = int(os.environ["WORLD_SIZE"])
    config = ModelConfig(path=model, dtype=dtype)
    policy = MegatronPolicy(config, ParallelConfig(data=ranks), OptimConfig(lr=1e-6), model)
    batch = sequences(policy.hf_config.vocab_size)
    batches = pack(batch, 8192, policy.data_rank, ranks, share_prompts=True)
    loss = GrpoLoss(GrpoConfig(), BatchTotals.of(batch))
    linear, attention = [], []
    for each in batches:
        linear += products(policy.hf_config, int(each.tokens.numel()), int(each.mask.sum()))
        attention += attention_products(policy.hf_config, each)

    def step_seconds() -> float:
        started = time.perf_counter()
        policy.train_step(batches, loss, 1.0)
        return time.perf_counter() - started

    timed = {
        "step": step_seconds,
        "linear": lambda: bare_seconds(linear, getattr(torch, dtype)),
        "attention": lambda: bare_seconds(attention, getattr(torch, dtype)),
    }
    found: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):  # in turn, so that whatever else the machine does meets all of them
        for name, measure in timed.items():
            dist.barrier()
            seconds = measure()
            if repeat:  # the first warms up
                found[name].append(seconds)
    return {
        "step_seconds": found["step"],
        "linear_seconds": found["linear"],
        "attention_seconds": found["attention"],
        "linear_flops": sum(each.flops for each in linear),
        "trained_tokens": sum(map(len, batch)),
        "ranks": ranks,
    }


if __name__ == "__main__":
    measured = main(sys.argv[1], cast(Dtype, sys.argv[2]), int(sys.argv[3]))
    if dist.get_rank() == 0:
        Path(sys.argv[4]).write_text(json.dumps(measured))
