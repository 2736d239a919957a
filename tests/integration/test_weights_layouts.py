"""Every family in every layout: the policy's logits are transformers' own, and its weights come back bit by bit."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.plan.refit_time import everywhere, on_rank0
from alphamed_nemo.policy.model import build_model
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.everywhere import stream_everywhere
from alphamed_nemo.policy.weights.load import load_hf
from alphamed_nemo.policy.weights.stream import stream_hf
from alphamed_nemo.policy.weights.table import hf_shapes
from tests.spawn import spawn
from tests.tiny_hf import CONFIGS, megatron_logits, write_model

LAYOUTS = {
    "tp1-pp1": ParallelConfig(),
    "tp2": ParallelConfig(tensor=2),
    "pp2": ParallelConfig(pipeline=2),
    "pp2-interleaved": ParallelConfig(pipeline=2, virtual_pipeline=2),
    "tp2-pp2": ParallelConfig(tensor=2, pipeline=2),
    "tp2-dp2": ParallelConfig(tensor=2, data=2),
}
SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [58, 9, 7, 9, 3, 2, 3, 8, 4, 6, 26, 43, 38, 3, 27, 9, 50, 2, 8, 8]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(write_model(root / name, name, seed)) for seed, name in enumerate(CONFIGS)}


def through_megatron(parallel, folders):
    """On each rank, for each model: largest logits difference from transformers, and the streamed tensors."""
    initialize(parallel)
    results = {}
    for name, folder in folders.items():
        config = AutoConfig.from_pretrained(folder)
        chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), parallel)
        load_hf(chunks, config, folder)
        logits = megatron_logits(chunks, config.vocab_size, SEQUENCES)
        difference = None
        if logits is not None:
            reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            with torch.no_grad():
                expected = torch.cat([reference(torch.tensor([sequence])).logits[0] for sequence in SEQUENCES])
            difference = (logits - expected).abs().max().item()
        everywhere = [list(stream_everywhere(chunks, config, bucket_bytes=size)) for size in (1, 30_000, 2**30)]
        results[name] = difference, list(stream_hf(chunks, config)), everywhere
    return results


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_weights_of_every_family(layout, folders):
    parallel = LAYOUTS[layout]
    ranks = spawn(through_megatron, parallel.world_size, parallel, folders)
    for name, folder in folders.items():
        differences = [rank[name][0] for rank in ranks if rank[name][0] is not None]
        assert len(differences) == parallel.world_size // parallel.pipeline
        assert max(differences) < 1e-5, name

        config = CONFIGS[name]
        stored = load_file(f"{folder}/model.safetensors")
        streamed = ranks[0][name][1]
        assert [key for key, _ in streamed] == list(hf_shapes(config)), name
        assert set(hf_shapes(config)) == set(stored), name
        for key, tensor in streamed:
            assert tensor.dtype == stored[key].dtype and torch.equal(tensor, stored[key]), f"{name}: {key}"
        for rank in ranks[1:]:
            assert rank[name][1] == [(key, None) for key, _ in streamed], name
        for found in (found for rank in ranks for found in rank[name][2]):
            assert [key for key, _ in found] == [key for key, _ in streamed], name
            assert all(torch.equal(tensor, stored[key]) for key, tensor in found), name


def streamed_while_training(folder):
    """Streams in bfloat16, changing the parameters between two tensors."""
    parallel = ParallelConfig(tensor=2, pipeline=2)
    initialize(parallel)
    config = AutoConfig.from_pretrained(folder)
    chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), parallel)
    load_hf(chunks, config, folder)
    kept = list(stream_hf(chunks, config, dtype=torch.bfloat16))
    everywhere = list(stream_everywhere(chunks, config, dtype=torch.bfloat16, bucket_bytes=10_000))
    dist.barrier()
    with torch.no_grad():
        for parameter in chunks[0].parameters():
            parameter.fill_(7.0)
    again = list(stream_hf(chunks, config))
    return kept, again, everywhere


def test_streamed_tensors_are_copies_in_the_type_asked_for(folders):
    ranks = spawn(streamed_while_training, 4, folders["qwen2"])
    kept, again, _ = ranks[0]
    stored = load_file(f"{folders['qwen2']}/model.safetensors")
    for name, tensor in (*kept, *(pair for rank in ranks for pair in rank[2])):
        assert torch.equal(tensor, stored[name].bfloat16()), name
    for name, tensor in again:
        assert (tensor == 7.0).all(), name


def refused(parallel, folder, edits):
    """The messages with which loading refuses edited folders."""
    initialize(parallel)
    config = AutoConfig.from_pretrained(folder)
    chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), parallel)
    messages = []
    for edited in edits:
        with pytest.raises(ValueError) as error:
            load_hf(chunks, config, edited)
        messages.append(str(error.value))
    del chunks[0].decoder.layers[1].mlp.linear_fc1.weight
    with pytest.raises(ValueError) as error:
        load_hf(chunks, config, folder)
    return [*messages, str(error.value)]


def test_what_does_not_fit_is_refused_by_name(folders, tmp_path):
    stored = load_file(f"{folders['llama']}/model.safetensors")
    key = "model.layers.1.self_attn.k_proj.weight"
    edits = {
        "missing": {name: tensor for name, tensor in stored.items() if name != key},
        "unexpected": {**stored, "model.layers.9.extra": torch.zeros(1)},
        "shape": {**stored, key: torch.zeros(8, 32)},
    }
    for name, tensors in edits.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    paths = [str(tmp_path / name) for name in edits]
    (missing, unexpected, shape, parameter), *_ = spawn(refused, 1, ParallelConfig(), folders["llama"], paths)
    assert f"1 tensors are missing: {key}" in missing
    assert "1 tensors are not expected: model.layers.9.extra" in unexpected
    assert f"{key}: found shape (8, 32), expected (16, 32)" in shape
    assert "decoder.layers.1.mlp.linear_fc1.weight: missing in the model" in parameter


def transformer_engine_names(folder):
    """Loads into, and streams out of, a model whose norms are named as Transformer Engine's fused layers name them."""
    initialize(ParallelConfig())
    config = AutoConfig.from_pretrained(folder)
    chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), ParallelConfig())
    for layer in chunks[0].decoder.layers:
        layer.self_attention.linear_qkv.layer_norm_weight = torch.nn.Parameter(layer.input_layernorm.weight.data)
        layer.mlp.linear_fc1.layer_norm_weight = torch.nn.Parameter(layer.pre_mlp_layernorm.weight.data)
        del layer.input_layernorm.weight, layer.pre_mlp_layernorm.weight
    load_hf(chunks, config, folder)
    return dict(stream_hf(chunks, config))


def test_transformer_engine_names_of_fused_norms(folders):
    streamed = spawn(transformer_engine_names, 1, folders["qwen3"])[0]
    stored = load_file(f"{folders['qwen3']}/model.safetensors")
    assert streamed.keys() == stored.keys()
    assert all(torch.equal(streamed[name], stored[name]) for name in stored)


def test_folder_of_many_files(tmp_path):
    folder = write_model(tmp_path / "sharded", "qwen3", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    parallel = ParallelConfig(tensor=2)
    ranks = spawn(through_megatron, 2, parallel, {"qwen3": str(folder)})
    assert ranks[0]["qwen3"][0] < 1e-5


def bytes_received(folder):
    """Of this rank, by what it takes part in: for the form on every rank from its tensor-parallel group and from other
    stages, for the form on rank 0 from its own stage and from others."""
    parallel = LAYOUTS["tp2-pp2"]
    initialize(parallel)
    config = AutoConfig.from_pretrained(folder)
    chunks = build_model(config, ModelConfig(path=folder, dtype="float32"), parallel)
    stage_of_last = dist.get_world_size() // parallel.pipeline
    found = {"tensor": 0, "stages": 0, "own stage": 0, "other stages": 0}
    gather, broadcast, irecv = dist.all_gather_into_tensor, dist.broadcast, dist.irecv

    def counted_gather(whole, own, group):
        found["tensor"] += (len(whole) - len(own)) * 4
        return gather(whole, own, group=group)

    def counted_broadcast(whole, src, group, async_op):
        found["stages"] += len(whole) * 4 if dist.get_rank() != src else 0
        return broadcast(whole, src, group, async_op=async_op)

    def counted_irecv(buffer, src, group):
        found["own stage" if src < stage_of_last else "other stages"] += len(buffer) * 4
        return irecv(buffer, src=src, group=group)

    dist.all_gather_into_tensor, dist.broadcast, dist.irecv = counted_gather, counted_broadcast, counted_irecv
    for _ in stream_everywhere(chunks, config, bucket_bytes=20_000):
        pass
    for _ in stream_hf(chunks, config):
        pass
    return found


def test_the_plan_counts_the_bytes_that_each_rank_receives(folders):
    ranks = spawn(bytes_received, 4, folders["llama"])
    size = sum(tensor.numel() * 4 for tensor in load_file(f"{folders['llama']}/model.safetensors").values())
    # Norms are on every tensor-parallel rank and travel twice; embedding and head are not of one size with a stage.
    close = {"rel": 0.05}
    planned = everywhere(size, tensor=2, pipeline=2)
    assert ranks[0]["tensor"] + ranks[2]["tensor"] == pytest.approx(planned.tensor, **close)
    assert ranks[0]["stages"] + ranks[2]["stages"] == pytest.approx(planned.stages, **close)
    planned = on_rank0(size, tensor=2, pipeline=2)
    assert ranks[0]["own stage"] == pytest.approx(planned.tensor, **close)
    assert ranks[0]["other stages"] == pytest.approx(planned.stages, **close)
    assert all(rank["own stage"] + rank["other stages"] == 0 for rank in ranks[1:])
