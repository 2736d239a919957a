"""From a checkpoint of four ranks to a Hugging Face folder and back, checked against transformers each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from alphamed_nemo.config import Config, ExportConfig, ModelConfig, ParallelConfig, RunConfig
from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export import convert
from alphamed_nemo.export.convert import convert_from_hf, convert_to_hf
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.weights.stored import stream_stored
from tests.integration.policy_runs import build, stored_weights, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

save = checkpoint.save
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
        assert result.step == 2 and result.proof.tensors == len(weights)
        assert result.proof.difference < result.proof.limit < 1e-10
        index = json.loads((result.folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert index.keys() == weights.keys()
        for name, file in index.items():
            assert torch.equal(load_file(result.folder / file)[name], weights[name].to(dtype)), name
        model = AutoModelForCausalLM.from_pretrained(result.folder)
        assert model.dtype == dtype
        origin = json.loads((result.folder / "provenance.json").read_text())
        assert origin["largest_logit_difference"] == result.proof.difference
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


def test_refused_conversions(run):
    cfg, _ = run
    nowhere, strict = spawn(refused_conversions, 1, cfg)[0]
    assert "nowhere: manifest.json is missing" in nowhere
    assert "model.layers.3.self_attn.q_proj.weight[0, 0]: found" in strict and "expected the checkpoint's" in strict
    kept = Path(cfg.run.dir, ".strict.partial")
    assert strict.endswith(f"not to be used: {kept}") and "\n" not in strict
    assert {"config.json", "model.safetensors"} <= {path.name for path in kept.iterdir()}
    assert not Path(cfg.run.dir, "strict").exists()


def imported(cfg, out):
    result = convert_from_hf(cfg, out)
    with pytest.raises(checkpoint.CheckpointError, match="holds weights alone"):
        checkpoint.load(build(cfg.model.path, ParallelConfig()), result.folder)
    return result


def test_a_folder_becomes_a_checkpoint_and_comes_back_bit_by_bit(run, tmp_path):
    cfg, _ = run
    (tmp_path / "step_0").mkdir()
    (tmp_path / "step_0" / "stale").touch()
    (result,) = spawn(imported, 1, cfg, str(tmp_path))
    assert result.proof.difference < result.proof.limit < 1e-10
    assert [path.name for path in tmp_path.iterdir()] == ["step_0"] and not (result.folder / "stale").exists()
    back = spawn(stored_weights, 1, cfg.model.path, str(tmp_path / "step_0"))[0]
    stored = load_file(f"{cfg.model.path}/model.safetensors")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)


def with_an_element_changed(model, folder, state):
    """The save of a checkpoint, after a weight has changed by the smallest step that float32 has."""
    weight = next(
        parameter for name, parameter in model.model[0].named_parameters() if "layers.2.mlp.linear_fc2" in name
    )
    weight.data[3, 5] = torch.nextafter(weight.data[3, 5], torch.tensor(torch.inf))
    save(model, folder, state)


def refused_import(cfg, out):
    convert.checkpoint.save = with_an_element_changed
    with pytest.raises(ConversionError) as error:
        convert_from_hf(cfg, out)
    return str(error.value)


def test_a_checkpoint_that_is_not_the_folder_is_refused(run, tmp_path):
    message = spawn(refused_import, 1, run[0], str(tmp_path))[0]
    assert message.startswith("model.layers.2.mlp.down_proj.weight[3, 5]: found")
    assert "in the checkpoint, expected the folder's" in message and "(1 of 3072 elements differ)" in message
    assert message.endswith(str(tmp_path / ".step_0.unproven"))
    assert [path.name for path in tmp_path.iterdir()] == [".step_0.unproven"]
