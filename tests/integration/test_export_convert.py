"""From a checkpoint of four ranks to a Hugging Face folder and back, checked against transformers each time."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import Config, ExportConfig, ModelConfig, ParallelConfig, RunConfig
from alphamed_nemo.export import convert
from alphamed_nemo.export.convert import convert_from_hf, convert_to_hf
from alphamed_nemo.export.verify import ConversionError, compare_logprobs, probe
from alphamed_nemo.policy import checkpoint
from alphamed_nemo.policy.weights import stream_stored
from tests.integration.policy_runs import build, stored_weights, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

FOUR = ParallelConfig(tensor=2, pipeline=2)


def trained(hf, checkpoints):
    policy = build(hf, FOUR)
    train(policy, 1)
    train(policy, 2)
    checkpoint.save(policy, f"{checkpoints}/step_2", {"step": 2})
    return weights_of(policy)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a checkpoint of TP 2 × PP 2, and its weights."""
    root = tmp_path_factory.mktemp("runs")
    hf = write_model(root / "base", "qwen2")
    cfg = Config(
        run=RunConfig(name="run", dir=str(root)), model=ModelConfig(path=str(hf), dtype="float32"), parallel=FOUR
    )
    weights = spawn(trained, 4, str(hf), str(root / "run" / "checkpoints"))[0]
    return cfg, weights


def converted(cfg, dtypes):
    found = []
    for dtype in dtypes:
        cfg.export = ExportConfig(dtype=dtype, out=f"{cfg.run.dir}/hf-{dtype}", shard_gb=2e-5)
        found.append(convert_to_hf(cfg))
    return found


def test_a_release_is_the_checkpoint_and_transformers_computes_the_same(run):
    cfg, weights = run
    for result in spawn(converted, 1, cfg, ["float32", "bfloat16"])[0]:
        dtype = {"hf-float32": torch.float32, "hf-bfloat16": torch.bfloat16}[result.folder.name]
        assert result.step == 2 and result.difference < 1e-5
        index = json.loads((result.folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert index.keys() == weights.keys()
        for name, file in index.items():
            assert torch.equal(load_file(result.folder / file)[name], weights[name].to(dtype)), name
        model = AutoModelForCausalLM.from_pretrained(result.folder)
        assert model.dtype == dtype
        origin = json.loads((result.folder / "provenance.json").read_text())
        assert origin["largest_logit_difference"] == result.difference
        assert origin["checkpoint"]["name"] == "step_2"
        assert "| training | 2 steps |" in (result.folder / "README.md").read_text()


def with_two_heads_exchanged(*arguments):
    """The export's stream of weights, with one tensor in which every name and shape is right."""
    for name, tensor in stream_stored(*arguments):
        yield name, tensor.roll(8, dims=0) if name == "model.layers.3.self_attn.q_proj.weight" else tensor


def refused_conversions(cfg):
    """A checkpoint that is not there, and a release that is not the checkpoint."""
    cfg.export = ExportConfig(checkpoint=f"{cfg.run.dir}/nowhere")
    with pytest.raises(checkpoint.CheckpointError) as nowhere:
        convert_to_hf(cfg)
    cfg.export = ExportConfig(out=f"{cfg.run.dir}/strict")
    convert.stream_stored = with_two_heads_exchanged
    with pytest.raises(ConversionError) as strict:
        convert_to_hf(cfg)
    return str(nowhere.value), str(strict.value)


def test_refused_conversions(run, tmp_path):
    cfg, _ = run
    nowhere, strict = spawn(refused_conversions, 1, cfg)[0]
    assert "nowhere: manifest.json is missing" in nowhere
    assert "differ by" in strict and "export.max_logit_difference" in strict
    assert not any("strict" in path.name for path in (tmp_path.parent / cfg.run.dir).iterdir())


def imported(cfg, out):
    result = convert_from_hf(cfg, out)
    with pytest.raises(checkpoint.CheckpointError, match="holds weights alone"):
        checkpoint.load(build(cfg.model.path, cfg.parallel), result.folder)
    return result


def test_a_folder_becomes_a_checkpoint_and_comes_back_bit_by_bit(run, tmp_path):
    cfg, _ = run
    results = spawn(imported, 4, cfg, str(tmp_path))
    assert all(result.difference < 1e-5 for result in results)
    back = spawn(stored_weights, 1, cfg.model.path, str(tmp_path / "step_0"))[0]
    stored = load_file(f"{cfg.model.path}/model.safetensors")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)


def compared(hf, others):
    policy = build(hf, ParallelConfig(tensor=2), optim=None)
    ids = probe(policy.hf_config.vocab_size, lengths=(2, 40))
    differences = [compare_logprobs(policy, hf, ids, 1e-4)]
    for other in others:
        with pytest.raises(ConversionError, match="log-probabilities of Megatron and of transformers differ"):
            compare_logprobs(policy, other, ids, 1e-4)
    return differences


def test_a_wrong_folder_is_found(run, tmp_path):
    """Two heads of one tensor exchanged: every name and shape is right."""
    hf = run[0].model.path
    stored = load_file(f"{hf}/model.safetensors")
    for key in ("model.layers.3.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.bias"):
        other = tmp_path / key
        AutoConfig.from_pretrained(hf).save_pretrained(other)
        save_file({**stored, key: stored[key].roll(8, dims=0)}, other / "model.safetensors", metadata={"format": "pt"})
    results = spawn(compared, 2, hf, [str(path) for path in tmp_path.iterdir()])
    assert all(difference < 1e-5 for (difference,) in results)
