"""The plan's bytes by rank against models, gradient buffers and optimizers that are really built."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alphamed_nemo.config import LoraConfig, ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.plan.sizes import load_model, model_of
from alphamed_nemo.plan.states import Bucket, divide, fp8_copies, rank_states
from tests.spawn import spawn

LAYOUTS = [
    ("llama", {}, "float32", False),
    ("llama-tied-odd-vocabulary", {"tensor": 2, "data": 2}, "bfloat16", False),
    ("llama-tied-odd-vocabulary", {"pipeline": 2, "data": 2}, "float32", True),
    ("llama-scaled-rope", {"tensor": 4}, "bfloat16", False),
    ("qwen2", {"data": 4}, "bfloat16", True),
    ("qwen2-tied", {"tensor": 2, "pipeline": 2}, "bfloat16", False),
    ("qwen3", {"pipeline": 4}, "float32", False),
    ("qwen3", {"pipeline": 2, "virtual_pipeline": 2, "data": 2}, "bfloat16", True),
    ("qwen3-tied", {"tensor": 2, "data": 2}, "float32", True),
]


def built_states(
    config: SimpleNamespace, layout: dict, dtype: str, overlap: bool, lora: LoraConfig
) -> tuple[int, int, int, int, int]:
    """(stage, data rank, bytes of weights, of gradients, of the optimizer's float32 tensors) of this rank."""
    import torch
    from megatron.core import parallel_state

    from alphamed_nemo.policy.lora import add_adapters
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.optimizer import build_optimizer, wrap
    from alphamed_nemo.policy.runtime import initialize

    parallel = ParallelConfig(**layout)
    initialize(parallel)
    built = build_model(config, ModelConfig(dtype=dtype), parallel)
    if lora.rank:
        add_adapters(built, lora, 0)
    chunks = wrap(built, overlap)
    frozen = [parameter for chunk in chunks for parameter in chunk.parameters() if not parameter.requires_grad]
    optimizer, _ = build_optimizer(chunks, OptimConfig())
    optimizer.step()  # Adam allocates its moments in the first step
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
    (inner,) = optimizer.chained_optimizers
    tensors = [
        value for state in inner.optimizer.state.values() for name, value in state.items() if name.startswith("exp_avg")
    ]
    tensors += [part for group in inner.shard_fp32_from_float16_groups for part in group if part is not None]
    return (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_data_parallel_rank(),
        *(sum(torch.numel(t) * t.element_size() for t in parts) for parts in (
            [buffer.param_data for buffer in buffers] + frozen, [buffer.grad_data for buffer in buffers], tensors,
        )),
    )  # fmt: skip


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=7)], ids=["all", "lora"])
@pytest.mark.parametrize(("name", "layout", "dtype", "overlap"), LAYOUTS)
def test_bytes_by_rank_are_within_2_percent_of_what_is_built(
    name: str, layout: dict, dtype: str, overlap: bool, lora: LoraConfig
) -> None:
    from tests.tiny_hf import CONFIGS  # here, because every rank imports this module and this import takes seconds

    parallel = ParallelConfig(**layout)
    values = CONFIGS[name].to_dict()
    model = model_of(name, values)
    config = SimpleNamespace(**values)  # transformers' own class would cost each rank a second of imports
    for stage, data_rank, *real in spawn(built_states, parallel.world_size, config, layout, dtype, overlap, lora):
        planned = rank_states(model, parallel, dtype, stage, data_rank, overlap, lora)
        assert [planned.weights, planned.gradients, planned.optimizer] == pytest.approx(real, rel=0.02), (
            f"stage {stage}, data rank {data_rank}"
        )


def test_a_bucket_is_shared_evenly_and_padding_belongs_to_no_one() -> None:
    (bucket,) = divide([(100, False), (30, False)], ranks=4, limit=None)
    assert bucket == Bucket(((0, 30), (64, 164)), 256)
    assert [bucket.owned(rank, 4) for rank in range(4)] == [30, 64, 36, 0]


def test_a_shared_embedding_has_a_bucket_of_its_own() -> None:
    assert [b.length for b in divide([(200, True), (64, False), (64, False)], ranks=2, limit=None)] == [128, 256]


def test_buckets_end_after_the_limit() -> None:
    assert [b.length for b in divide([(128, False)] * 5, ranks=1, limit=256)] == [256, 256, 128]


def test_fp8_keeps_each_matrix_of_a_layer_in_two_layouts() -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    of_layer = 4096 * (4096 + 1024 + 1024) + 4096 * 4096 + 3 * 4096 * 14336  # queries, keys, values; output; MLP
    assert fp8_copies(model, ParallelConfig(), 0) == 2 * 32 * of_layer
    assert fp8_copies(model, ParallelConfig(tensor=4, pipeline=2), 1) == 2 * 16 * of_layer // 4
