"""The policy's training step beside the bare matrix products that it is made of. Runs as a process of its own.

python -m benchmarks.ceiling MODEL_FOLDER DTYPE REPEATS
"""

from __future__ import annotations

import json
import random
import sys
import time
from statistics import median

import torch

from alphamed_nemo.config import GrpoConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.loss import make_loss
from alphamed_nemo.policy.packing import TrainSequence, pack
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


def products(config, tokens: int, responses: int) -> list[tuple[int, int, int, int]]:
    """(rows, inner, columns, how often) of the matrix products of one forward pass."""
    hidden, ffn, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = hidden // config.num_attention_heads
    qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * head
    return [
        (tokens, hidden, qkv, layers),
        (tokens, hidden, hidden, layers),
        (tokens, hidden, 2 * ffn, layers),
        (tokens, ffn, hidden, layers),
        (responses, hidden, config.vocab_size, 1),
    ]


def bare_seconds(shapes: list[tuple[int, int, int, int]], dtype: torch.dtype) -> float:
    """Of torch.mm for a forward and a backward pass: x·Wᵀ, g·W and gᵀ·x for each product."""
    total = 0.0
    for rows, inner, columns, times in shapes:
        x, w, g = (torch.randn(*shape, dtype=dtype) for shape in ((rows, inner), (columns, inner), (rows, columns)))
        started = time.perf_counter()
        for _ in range(times):
            torch.mm(x, w.T)
            torch.mm(g, w)
            torch.mm(g.T, x)
        total += time.perf_counter() - started
    return total


def main(model: str, dtype: str, repeats: int) -> dict:
    policy = MegatronPolicy(ModelConfig(path=model, dtype=dtype), ParallelConfig(), OptimConfig(lr=1e-6), model)
    batch = sequences(policy.hf_config.vocab_size)
    batches = pack(batch, 8192, share_prompts=True)
    loss = make_loss(GrpoConfig(), BatchTotals.of(batch))
    shapes = [
        shape
        for each in batches
        for shape in products(policy.hf_config, int(each.tokens.numel()), int(each.mask.sum()))
    ]
    flops = 3 * sum(2 * rows * inner * columns * times for rows, inner, columns, times in shapes)
    policy.train_step(batches, loss, 1.0)
    steps, bare = [], []
    for _ in range(repeats):  # in turn, so that whatever else the machine does meets both
        started = time.perf_counter()
        policy.train_step(batches, loss, 1.0)
        steps.append(time.perf_counter() - started)
        bare.append(bare_seconds(shapes, getattr(torch, dtype)))
    return {
        "step_seconds": steps,
        "bare_seconds": bare,
        "flops": flops,
        "trained_tokens": sum(map(len, batch)),
        "computed_tokens": sum(int(each.tokens.numel()) for each in batches),
        "utilisation": [b / s for b, s in zip(bare, steps, strict=True)],
        "gflops_bare": flops / median(bare) / 1e9,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
