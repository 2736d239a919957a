"""Policies of the small models on their ranks, for tests of checkpoints and exports."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor
from transformers import AutoConfig

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.checkpoint.stored_weights import CheckpointWeights
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.stored import stream_stored

# Every part of the optimizer's state takes part: a warm-up, a rate that falls, decay and clipping.
OPTIM = OptimConfig(lr=3e-3, min_lr=1e-4, schedule="linear", warmup_steps=2, weight_decay=0.1, clip_grad=0.5)


def build(
    hf: str, parallel: ParallelConfig, dtype: str = "float32", optim: OptimConfig | None = OPTIM
) -> MegatronPolicy:
    return MegatronPolicy(ModelConfig(path=hf, dtype=dtype), parallel, optim, hf, total_steps=20)


def sequences_of(step: int) -> list[TrainSequence]:
    """The same 12 sequences for the same step, whatever the layout."""
    draw = random.Random(step)

    def ids(shortest: int, longest: int) -> list[int]:
        return [draw.randrange(64) for _ in range(draw.randint(shortest, longest))]

    return [TrainSequence(ids(2, 9), ids(3, 20), advantage=draw.uniform(-1, 1)) for _ in range(12)]


def batches_of(step: int) -> list[PackedBatch]:
    """This data-parallel rank's share of the step's sequences."""
    return pack(
        sequences_of(step), 128, parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    )


def train(policy: MegatronPolicy, step: int) -> float:
    """One update on the step's batches; returns its loss."""
    tokens = sum(len(sequence.response_ids) for sequence in sequences_of(step))

    def loss(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> tuple[Tensor, dict[str, Any]]:
        return -(logprobs * batch.advantages).sum() / tokens, {}

    return policy.train_step(batches_of(step), loss, 1.0).loss


def weights_of(policy: MegatronPolicy) -> dict[str, Tensor]:
    """All weights under Hugging Face's names, on rank 0; nothing elsewhere. Collective."""
    return {name: tensor for name, tensor in policy.hf_weights() if tensor is not None}


def stored_weights(hf: str, folder: str) -> dict[str, Tensor]:
    """All weights of a checkpoint under Hugging Face's names, read in one process."""
    initialize(ParallelConfig())
    config = AutoConfig.from_pretrained(hf)
    skeleton = build_skeleton(config)
    read = partial(CheckpointWeights(skeleton, folder).read, dtype=torch.float32)
    return dict(stream_stored(skeleton, config, read))


def draws() -> list[float]:
    """Numbers from every generator whose state a checkpoint keeps."""
    import numpy as np
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    with get_cuda_rng_tracker().fork():
        inside = torch.rand(2)
    return [*torch.rand(2).tolist(), *inside.tolist(), random.random(), float(np.random.rand())]
