"""What a rank gives back while rollouts are sampled: the plan's bytes, really freed, and the same bits afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.plan.sizes import load_model
from alphamed_nemo.plan.states import rank_states
from tests.spawn import spawn

LAYOUTS = [  # and rounds
    ({}, "float32", 20),
    ({"data": 2}, "bfloat16", 20),
    ({"tensor": 2, "pipeline": 2}, "bfloat16", 3),
    ({"pipeline": 2, "virtual_pipeline": 2}, "float32", 3),
]


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_hf import write_model  # here, because every rank imports this module and this import takes seconds

    return write_model(tmp_path_factory.mktemp("model"), "qwen3")


def bits(policy: Any) -> list[Any]:
    """Weights, gradients, float32 parameters and moments of this rank, as they are."""
    tensors = [
        value for chunk in policy.model for buffer in chunk.buffers for value in (buffer.param_data, buffer.grad_data)
    ]
    return [tensor.detach().clone() for tensor in (*tensors, *policy.offload._state())]


def rounds(hf: str, layout: dict, dtype: str, count: int) -> tuple[int, int, int, int]:
    """Two policies train alike, one of which gives back between updates.

    Returns:
        (stage, data rank, bytes of gradients, of optimizer state) that it gave back.
    """
    import torch
    from megatron.core import parallel_state

    from tests.integration.policy_runs import build, train

    parallel = ParallelConfig(**layout)
    resident, moving = (build(hf, parallel, dtype) for _ in range(2))
    for step in range(count):
        given = moving.offload.give_back()
        assert moving.offload.give_back() == given  # once is enough
        buffers = [buffer for chunk in moving.model for buffer in chunk.buffers]
        assert all(buffer.grad_data.untyped_storage().nbytes() == 0 for buffer in buffers)
        moving.offload.take()
        assert all(not buffer.grad_data.any() for buffer in buffers)
        assert train(resident, step) == train(moving, step)
        same = zip(bits(resident), bits(moving), strict=True)
        assert all(torch.equal(one, other) for one, other in same), f"round {step}"
    given = moving.offload.give_back()
    ranks = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_data_parallel_rank()
    return *ranks, given.gradients, given.optimizer


@pytest.mark.parametrize(("layout", "dtype", "count"), LAYOUTS)
def test_rounds_change_no_bit_and_give_back_what_the_plan_says(hf: Path, layout: dict, dtype: str, count: int) -> None:
    parallel, model = ParallelConfig(**layout), load_model(str(hf))
    for stage, data_rank, gradients, optimizer in spawn(rounds, parallel.world_size, str(hf), layout, dtype, count):
        planned = rank_states(model, parallel, dtype, stage, data_rank, overlap=False)
        assert (gradients, optimizer) == pytest.approx((planned.gradients, planned.optimizer), rel=0.02)


def memory(hf: str) -> tuple[int, int, list[int]]:
    """Bytes that malloc has handed out, through two rounds: what was given back, and in use here, away and back."""
    from alphamed_nemo.policy.local.heap import HEAP
    from tests.integration.policy_runs import build, train

    policy = build(hf, ParallelConfig(), "bfloat16")
    train(policy, 0)
    in_use = []
    for _ in range(2):
        for move in (lambda: None, policy.offload.give_back, policy.offload.take):
            move()
            in_use.append(HEAP.in_use())
    given = policy.offload.give_back()
    return given.gradients, given.optimizer, in_use


def test_gradients_are_really_freed_and_nothing_is_held_twice(tmp_path: Path) -> None:
    # On a CPU host the state that moves stays in the same memory, so what malloc has handed out falls by the gradients.
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=64, max_position_embeddings=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    ((gradients, optimizer, in_use),) = spawn(memory, 1, str(tmp_path))
    assert optimizer == pytest.approx(3 * gradients, rel=0.01)
    here, away, back = in_use[:3]
    assert here - away == pytest.approx(gradients, rel=0.1)
    assert back == pytest.approx(here, rel=0.02)
    assert in_use[3:] == pytest.approx(in_use[:3], rel=0.02)  # the second round takes no more


def saved_while_away(hf: str, folder: str) -> bool:
    """Whether a checkpoint that is saved while the state is away loads as the one that is saved with it here."""
    import torch

    from alphamed_nemo.policy.checkpoint import folder as checkpoint
    from tests.integration.policy_runs import build, train

    parallel = ParallelConfig(data=2)
    policy = build(hf, parallel, "bfloat16")
    train(policy, 0)
    before = bits(policy)
    policy.offload.give_back()
    checkpoint.save(policy, Path(folder) / "step_1", {"step": 1})
    assert policy.offload.given is not None
    fresh = build(hf, parallel, "bfloat16")
    checkpoint.load(fresh, Path(folder) / "step_1")
    found = bits(fresh)
    gradients = [buffer.grad_data.shape for chunk in policy.model for buffer in chunk.buffers]
    kept = [(one, other) for one, other in zip(before, found, strict=True) if one.shape not in gradients]
    return len(kept) > 0 and all(torch.equal(one, other) for one, other in kept)


def test_a_checkpoint_needs_nothing_back(hf: Path, tmp_path: Path) -> None:
    assert spawn(saved_while_away, 2, str(hf), str(tmp_path)) == [True, True]
