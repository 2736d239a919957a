"""A policy with adapters, in any layout, is transformers' model with W + (alpha / rank) B A, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from alphamed_nemo.config import LoraConfig, ParallelConfig
from alphamed_nemo.policy.packing import PackedBatch, pack
from tests.integration.lora_runs import LORA, adapter_gradients, cut, drawn, held, put, rows_of, write_merged
from tests.integration.test_policy_layouts import (
    FAMILIES,
    TEMPERATURE,
    VOCAB,
    Reference,
    by_tokens,
    folders,
    loss_fn,
    own_batches,
    policy_of,
    reference,
    sequences,
)
from tests.spawn import spawn

__all__ = ["folders"]  # a fixture


@pytest.fixture(scope="module")
def merged(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of transformers' models that the adapters stand for."""
    place = tmp_path_factory.mktemp("merged")
    return {family: write_merged(hf, drawn(hf), place / family) for family, hf in folders.items()}


@pytest.fixture(scope="module")
def references(merged: dict[str, str]) -> dict[str, Reference]:
    return {family: reference(folder, sequences()) for family, folder in merged.items()}


LAYOUTS = {
    "one process": ({}, 256),
    "tp2": ({"tensor": 2}, 256),
    "tp2, sequence parallel": ({"tensor": 2, "sequence": True}, 256),
    "pp2, interleaved": ({"pipeline": 2, "virtual_pipeline": 2}, 128),
    "tp2 pp2, sequence parallel": ({"tensor": 2, "pipeline": 2, "sequence": True}, 256),
    "pp2 dp2": ({"pipeline": 2, "data": 2}, 128),
    "full recomputation": ({}, 256),
    "tp2 pp2, full recomputation": ({"tensor": 2, "pipeline": 2, "sequence": True}, 128),
    "tp2 pp2, selective recomputation": ({"tensor": 2, "pipeline": 2}, 128),
    "shared prompts, tp2, float32 head": ({"tensor": 2}, 256),
}
CASES = [(layout, "llama") for layout in LAYOUTS] + [
    (layout, family) for layout in ("tp2, sequence parallel", "pp2 dp2") for family in ("qwen2", "qwen3")
]

Found = tuple[int, dict[str, tuple[Tensor, Tensor]], dict[str, Tensor], dict[tuple[int, ...], Tensor]]


def computed(hf: str, parallel: dict, batches: list[list[PackedBatch]], recompute: str, head: str) -> Found:
    """Of this rank: its tensor rank, gradients of its adapters, merged weights (rank 0), and log-probs."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    from alphamed_nemo.policy.optimizer import wrap
    from alphamed_nemo.policy.step import forward_backward

    policy = policy_of(hf, parallel, recompute=recompute, head_dtype=head, lora=LORA)
    put(policy, drawn(hf))
    mine = batches[policy.data_rank]
    logprobs = {}
    for batch, values in zip(mine, policy.logprobs(mine, TEMPERATURE), strict=True):
        logprobs |= by_tokens(batch, values)
    weights = {name: tensor for name, tensor in policy.hf_weights() if tensor is not None}
    everywhere = dict(policy.hf_weights(everywhere=True))
    assert all(torch.equal(everywhere[name], tensor) for name, tensor in weights.items())
    policy.model = wrap(policy.model)
    forward_backward(policy.model, mine, loss_fn, VOCAB, TEMPERATURE)
    group = parallel_state.get_data_parallel_group()
    for chunk in policy.model:
        assert {p for p in chunk.parameters() if p.requires_grad} == set(chunk.param_to_bucket_group)
        for bucket in (bucket for buffer in chunk.buffers for bucket in buffer.buckets):
            part = bucket.grad_data.chunk(dist.get_world_size(group))[dist.get_rank(group)].clone()
            dist.all_gather_into_tensor(bucket.grad_data, part, group=group)
    gradients = {name: (adapter.a.main_grad, adapter.b.main_grad) for name, adapter in held(policy).items()}
    return parallel_state.get_tensor_model_parallel_rank(), gradients, weights, logprobs


@pytest.mark.parametrize(("layout", "family"), CASES)
def test_log_probs_gradients_and_merged_weights_are_those_of_the_formula(
    folders: dict[str, str], merged: dict[str, str], references: dict[str, Reference], layout: str, family: str
) -> None:
    hf, (parallel, limit) = folders[family], LAYOUTS[layout]
    recompute = next((choice for choice in ("selective", "full") if f"{choice} recomputation" in layout), "none")
    head, data = "float32" if "float32 head" in layout else "model", parallel.get("data", 1)
    batches = [pack(sequences(), limit, rank, data, "shared prompts" in layout) for rank in range(data)]
    ranks = spawn(computed, ParallelConfig(**parallel).world_size, hf, parallel, batches, recompute, head)

    logprobs, of_weights = references[family]
    found = {key: values for *_, values_by_key in ranks for key, values in values_by_key.items()}
    if "shared prompts" not in layout:  # whose packs hold no whole sequence
        assert found.keys() == logprobs.keys()
        for key, values in logprobs.items():
            torch.testing.assert_close(found[key].double(), values, rtol=0, atol=1e-5)

    expected, table = adapter_gradients(hf, drawn(hf), of_weights), rows_of(hf)
    seen = set()
    for tensor_rank, gradients, _, _ in ranks:
        for name, pair in gradients.items():
            seen.add(name)
            whole = cut(table[name], *expected[name], tensor_rank, parallel.get("tensor", 1))
            for gradient, of_whole in zip(pair, whole, strict=True):
                assert (gradient.double() - of_whole).norm() < 1e-4 * of_whole.norm(), name
    assert seen == expected.keys()

    of_merged = AutoModelForCausalLM.from_pretrained(merged[family], dtype=torch.float64).state_dict()
    weights = ranks[0][2]
    assert len(weights) > 30
    for name, weight in weights.items():
        torch.testing.assert_close(weight.double(), of_merged[name], rtol=0, atol=1e-6)


def trained(hf: str, parallel: dict, dtype: str, targets: list[str]) -> dict[str, Any]:
    """Losses of updates under a KL term's reference; how far that is from the base model; what the optimizer holds."""
    from alphamed_nemo.policy.reference import ReferencePolicy

    base = policy_of(hf, parallel, dtype=dtype)
    batches = own_batches(base, parallel, 256)
    of_base = torch.stack(base.logprobs(batches, TEMPERATURE))
    lora = LoraConfig(rank=4, alpha=8.0, targets=targets)
    policy = policy_of(hf, parallel, {"lr": 1e-2, "clip_grad": 0.5}, dtype=dtype, lora=lora, lora_seed=3)
    untrained = torch.stack(policy.logprobs(batches, TEMPERATURE))
    first = {name: adapter.a.detach().clone() for name, adapter in held(policy).items()}
    frozen = {n: p.detach().clone() for c in policy.model for n, p in c.named_parameters() if not p.requires_grad}
    stats = [policy.train_step(batches, loss_fn, TEMPERATURE) for _ in range(6)]
    now = {n: p for c in policy.model for n, p in c.named_parameters() if not p.requires_grad}
    of_reference = torch.stack(ReferencePolicy(policy).logprobs(batches, TEMPERATURE))
    return {
        "steps": [(s.loss, s.grad_norm) for s in stats],
        "untrained": (untrained - of_base).abs().max().item(),
        "reference": (of_reference - of_base).abs().max().item(),
        "moved": (torch.stack(policy.logprobs(batches, TEMPERATURE)) - of_base).abs().max().item(),
        "frozen": all(torch.equal(now[name], weight) for name, weight in frozen.items()),
        "first": first,
        "buffers": sum(b.numel for c in policy.model for b in c.buffers),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_training_changes_the_adapters_alone_and_alike_in_every_layout(
    folders: dict[str, str], dtype: str, tolerance: float
) -> None:
    targets = ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
    (alone,) = spawn(trained, 1, folders["llama"], {}, dtype, targets)
    assert alone["steps"][-1][0] < alone["steps"][0][0] - 0.1  # it learns
    for parallel in ({"tensor": 2, "pipeline": 2}, {"data": 2, "tensor": 2, "sequence": True}):
        ranks = spawn(trained, 4, folders["llama"], parallel, dtype, targets)
        for (loss, norm), (expected_loss, expected_norm) in zip(ranks[0]["steps"], alone["steps"], strict=True):
            assert loss == pytest.approx(expected_loss, abs=tolerance)
            assert norm == pytest.approx(expected_norm, rel=10 * tolerance)
        for rank in ranks:
            assert rank["steps"] == ranks[0]["steps"] and rank["frozen"]
            # Frozen weights go through another function of Megatron's, which may round otherwise.
            assert rank["untrained"] == rank["reference"] <= tolerance / 10 < rank["moved"]


def test_an_adapter_begins_as_pefts_and_only_where_it_is_asked_for(folders: dict[str, str]) -> None:
    (run,) = spawn(trained, 1, folders["qwen3"], {}, "float32", ["linear_proj", "linear_fc1"])
    assert {name.split(".")[-2] for name in run["first"]} == {"linear_proj", "linear_fc1"}
    for name, a in run["first"].items():
        bound = 1 / math.sqrt(a.shape[1])
        assert 0.9 * bound < a.abs().max() <= bound, name
    assert len({a.flatten()[0].item() for a in run["first"].values()}) == len(run["first"]) == 8
    trained_elements = sum(4 * (96 + 64) + 4 * (64 + 192) for _ in range(4))
    assert trained_elements <= run["buffers"] < 1.2 * trained_elements


def test_selected_layers_learn_under_recomputation(folders: dict[str, str]) -> None:
    """Of a first layer whose input needs no gradient."""
    found = {}
    for recompute in ("none", "selective", "full"):
        (found[recompute],) = spawn(mlp_gradients, 1, folders["llama"], recompute)
    for recompute in ("selective", "full"):
        for name, gradient in found["none"].items():
            assert gradient.norm() > 0
            torch.testing.assert_close(found[recompute][name], gradient, msg=name)


def mlp_gradients(hf: str, recompute: str) -> dict[str, Tensor]:
    lora = LoraConfig(rank=LORA.rank, alpha=LORA.alpha, targets=["linear_fc1", "linear_fc2"])
    policy = policy_of(hf, {}, {"lr": 1e-2}, recompute=recompute, lora=lora)
    put(policy, drawn(hf))
    policy.train_step(own_batches(policy, {}, 256), loss_fn, TEMPERATURE)
    return {name: adapter.a.main_grad.clone() for name, adapter in held(policy).items()}


def test_every_family_is_tried() -> None:
    assert {family for _, family in CASES} == FAMILIES.keys()


def broken(hf: str) -> str:
    from alphamed_nemo.policy.finite import NotFiniteError

    policy = policy_of(hf, {"pipeline": 2}, {"lr": 1e-2}, lora=LORA)
    for name, adapter in held(policy).items():
        if name == "decoder.layers.3.mlp.linear_fc2.weight":
            adapter.b.data[0, 0] = math.nan
    try:
        policy.check_weights()
    except NotFiniteError as error:
        return str(error)
    return ""


def test_an_adapter_that_is_not_finite_is_named(folders: dict[str, str]) -> None:
    message = "the weight decoder.layers.3.mlp.linear_fc2_lora.b is NaN or infinite"
    assert spawn(broken, 2, folders["llama"]) == [message] * 2
