"""Activations: the formula against what autograd really keeps, and how many micro-batches wait in a pipeline."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.plan.activations import activation_bytes, chunks_in_flight, layer_bytes, logit_bytes
from alphamed_nemo.plan.sizes import load_model, model_of
from tests.spawn import spawn

SIZES = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
TOKENS = 256


def kept_bytes(sizes: dict, tokens: int) -> float:
    """Bytes a token that one layer keeps for its backward pass: the difference between two layers and one."""
    import torch

    from alphamed_nemo.policy.local.attention import SegmentParams
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.runtime import initialize

    initialize(ParallelConfig())

    def kept(layers: int) -> int:
        config = SimpleNamespace(**(sizes | {"num_hidden_layers": layers}))
        (model,) = build_model(config, ModelConfig(dtype="float32"), ParallelConfig())
        storages = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no address is used twice
            return tensor

        bounds = torch.tensor([0, tokens], dtype=torch.int32)
        packed = SegmentParams.of(bounds, tokens)
        ids = torch.arange(tokens)[None]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(ids % sizes["vocab_size"], ids, None, packed_seq_params=packed)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        return sum(t.untyped_storage().nbytes() for address, t in storages.items() if address not in weights)

    return (kept(2) - kept(1)) / tokens


def test_a_layer_keeps_what_autograd_keeps() -> None:
    (real,) = spawn(kept_bytes, 1, SIZES, TOKENS)
    planned = layer_bytes(model_of("small", SIZES), ParallelConfig(), "float32", "none")
    assert planned.kept == pytest.approx(real, rel=0.02)


def test_recomputation_keeps_less_and_rebuilds_the_rest() -> None:
    model, parallel = load_model("Llama-3.1-8B-Instruct"), ParallelConfig(tensor=2, sequence=True)
    none, selective, full = (layer_bytes(model, parallel, "bfloat16", r) for r in ("none", "selective", "full"))
    assert none.kept > selective.kept > full.kept == 2 * model.hidden / 2
    assert selective.kept + selective.rebuilt == pytest.approx(none.kept)
    with pytest.raises(ValueError, match="model.recompute: found 'some'"):
        layer_bytes(model, parallel, "bfloat16", "some")


@pytest.mark.parametrize(
    ("pipeline", "virtual", "stage", "micro_batches", "expected"),
    [(1, None, 0, 8, 1), (4, None, 0, 8, 4), (4, None, 3, 8, 1), (4, None, 0, 2, 2), (4, 2, 0, 8, 11), (4, 2, 3, 8, 5)],
)
def test_micro_batches_that_wait_are_those_of_the_schedule(
    pipeline: int, virtual: int | None, stage: int, micro_batches: int, expected: int
) -> None:
    parallel = ParallelConfig(pipeline=pipeline, virtual_pipeline=virtual)
    assert chunks_in_flight(parallel, stage, micro_batches) == expected


def test_the_first_stage_keeps_the_most_and_context_parallelism_divides_it() -> None:
    model, parallel = load_model("Llama-3.1-8B-Instruct"), ParallelConfig(pipeline=4)
    stages = [activation_bytes(model, parallel, "bfloat16", "none", 8192, stage, 16) for stage in range(4)]
    assert stages == sorted(stages, reverse=True)
    halved = activation_bytes(model, ParallelConfig(pipeline=4, context=2), "bfloat16", "none", 8192, 0, 16)
    assert halved == pytest.approx(stages[0] / 2)


def test_logits_are_of_this_ranks_part_of_the_padded_vocabulary() -> None:
    model = model_of("small", SIZES | {"vocab_size": 65})
    assert logit_bytes(model, ParallelConfig(tensor=2), "bfloat16", "model", rows=10) == 10 * 33 * 18


def test_a_float32_head_has_wider_logits() -> None:
    model = model_of("small", SIZES)
    assert logit_bytes(model, ParallelConfig(), "bfloat16", "float32", rows=10) == 10 * 64 * 20
