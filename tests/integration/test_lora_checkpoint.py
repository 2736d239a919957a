"""Checkpoints of adapters: resumed to the last bit, read by any layout, merged into a release, and read by PEFT."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alphamed_nemo.config import Config, ExportConfig, LoraConfig, ModelConfig, ParallelConfig, RunConfig
from alphamed_nemo.export.convert import convert_to_adapter, convert_to_hf
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint.tensors import stored_tensors
from alphamed_nemo.policy.policy import MegatronPolicy
from tests.integration.policy_runs import OPTIM, build, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import CONFIGS, write_model

SAVED_BY = ParallelConfig(tensor=2, pipeline=2)
LORA = LoraConfig(rank=3, alpha=12.0)


def adapted(hf: str, parallel: ParallelConfig, lora: LoraConfig = LORA, dtype: str = "float32") -> MegatronPolicy:
    model = ModelConfig(path=hf, dtype=dtype)
    return MegatronPolicy(model, parallel, replace(OPTIM, lr=0.03), hf, total_steps=20, lora=lora, lora_seed=5)


def first_run(parallel: ParallelConfig, hf: str, folder: str, dtype: str) -> tuple[list[float], dict, dict]:
    """Losses of five updates, of which the third is saved, and the merged weights after the third and the fifth."""
    policy, losses, weights = adapted(hf, parallel, dtype=dtype), [], {}
    for step in range(1, 6):
        losses.append(train(policy, step))
        if step == 3:
            checkpoint.save(policy, f"{folder}/step_3", {"step": 3})
            weights = weights_of(policy)
    return losses, weights, weights_of(policy)


def resumed_run(parallel: ParallelConfig, hf: str, folder: str, dtype: str) -> tuple[list[float], dict, dict]:
    policy = adapted(hf, parallel, dtype=dtype)
    checkpoint.load(policy, f"{folder}/step_3")
    loaded = weights_of(policy)
    return [train(policy, step) for step in (4, 5)], loaded, weights_of(policy)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "llama-tied-odd-vocabulary"))


@pytest.fixture(scope="module")
def saved(hf: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple]:
    root = tmp_path_factory.mktemp("runs")
    folder = root / "run" / "checkpoints"
    return folder, spawn(first_run, 4, SAVED_BY, hf, str(folder), "float32")[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resuming_in_the_same_layout_is_exact(hf: str, tmp_path: Path, dtype: str) -> None:
    parallel = ParallelConfig(tensor=2, data=2, sequence=True)
    losses, third, fifth = spawn(first_run, 4, parallel, hf, str(tmp_path), dtype)[0]
    again, loaded, weights = spawn(resumed_run, 4, parallel, hf, str(tmp_path), dtype)[0]
    assert again == losses[3:]
    assert same(loaded, third) and same(weights, fifth) and not same(third, fifth)


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(), ParallelConfig(tensor=2, data=2), ParallelConfig(pipeline=2, virtual_pipeline=2)],
    ids=["tp1-pp1", "tp2-dp2", "pp2-interleaved"],
)
def test_resuming_in_another_layout_gives_the_same_losses(hf: str, saved: tuple, parallel: ParallelConfig) -> None:
    folder, (losses, third, fifth) = saved
    again, loaded, weights = spawn(resumed_run, parallel.world_size, parallel, hf, str(folder), "float32")[0]
    assert again == pytest.approx(losses[3:], rel=1e-5)
    for name, tensor in third.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=1e-6, msg=name)
        torch.testing.assert_close(weights[name], fifth[name], rtol=0, atol=2e-5, msg=name)


def test_it_holds_the_adapters_and_their_optimizer_alone(hf: str, saved: tuple) -> None:
    folder = saved[0] / "step_3"
    config = CONFIGS["llama-tied-odd-vocabulary"]
    h, f, kv = config.hidden_size, config.intermediate_size, config.hidden_size // 3  # 2 of 6 heads
    elements = config.num_hidden_layers * LORA.rank * ((h + h + 2 * kv) + (h + h) + (h + 2 * f) + (f + h))
    stored = stored_tensors(folder)
    assert all("_lora." in name for name in stored)
    held = sum(math.prod(shard.global_shape) for shard in stored.values())
    assert held == 4 * elements  # A and B, their float32 copies, and two moments
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["lora"] == {"rank": 3, "alpha": 12.0, "targets": LORA.targets}


def refusals(hf: str, folder: str) -> list[str]:
    found = []
    for policy in (build(hf, ParallelConfig()), adapted(hf, ParallelConfig(), LoraConfig(rank=4))):
        with pytest.raises(checkpoint.CheckpointError) as error:
            checkpoint.load(policy, f"{folder}/step_3")
        found.append(str(error.value))
    return found


def test_it_fits_no_model_without_adapters_or_of_another_rank(hf: str, saved: tuple) -> None:
    for message in spawn(refusals, 1, hf, str(saved[0]))[0]:
        assert "step_3: holds rank 3 and alpha 12.0 and targets ['linear_qkv'" in message
        assert message.endswith("; set lora.rank, lora.alpha and lora.targets as they were")


def exported(cfg: Config) -> tuple[str, float, float, str]:
    cfg.export = ExportConfig(out=f"{cfg.run.dir}/merged")
    conversion = convert_to_hf(cfg)
    cfg.export = ExportConfig(out=f"{cfg.run.dir}/adapter", adapter=True)
    return str(conversion.folder), conversion.proof.difference, conversion.proof.limit, str(convert_to_adapter(cfg))


def test_export_merges_them_and_keeps_them_for_peft(hf: str, saved: tuple) -> None:
    root, (_, _, fifth) = saved[0].parents[1], saved[1]
    cfg = Config(run=RunConfig(name="run", dir=str(root)), model=ModelConfig(path=hf, dtype="float32"))
    third = saved[1][1]
    folder, difference, limit, adapter = spawn(exported, 1, cfg)[0]
    assert difference < limit < 1e-10
    released = load_file(f"{folder}/model.safetensors")
    assert released.keys() == third.keys() and not same(third, fifth)
    for name, tensor in third.items():
        torch.testing.assert_close(released[name], tensor, rtol=0, atol=1e-6, msg=name)

    tensors, base = load_file(f"{adapter}/adapter_model.safetensors"), load_file(f"{hf}/model.safetensors")
    about = json.loads(Path(adapter, "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"]) == (3, 12.0)
    assert set(about["target_modules"]) == {f"{name}_proj" for name in "q k v o gate up down".split()}
    assert len(tensors) == 2 * 7 * 4
    for name, tensor in released.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        change = torch.zeros_like(tensor)
        if f"{place}.lora_A.weight" in tensors:
            change = 4.0 * tensors[f"{place}.lora_B.weight"] @ tensors[f"{place}.lora_A.weight"]
        torch.testing.assert_close(tensor, base[name] + change, rtol=0, atol=1e-6, msg=name)


def refused_base(cfg: Config, other: str) -> list[str]:
    found = []
    for action in (convert_to_hf, convert_to_adapter):
        cfg.model.path, cfg.export = other, ExportConfig(out=f"{cfg.run.dir}/refused")
        with pytest.raises(ValueError) as error:
            action(cfg)
        found.append(str(error.value))
    return found


def test_adapters_are_not_merged_with_other_weights(hf: str, tmp_path: Path) -> None:
    """By the hash of the base model that a run keeps in its checkpoints."""
    from alphamed_nemo.grpo.identity import base_contents

    state = {
        "step": 1,
        "identity": {"settings": {}, "contents": {"model.path": base_contents(Path(hf), tmp_path / "h")}},
    }
    spawn(save_untrained, 1, hf, str(tmp_path / "run" / "checkpoints" / "step_1"), state)
    other = str(write_model(tmp_path / "other", "llama-tied-odd-vocabulary", seed=1))
    cfg = Config(run=RunConfig(name="run", dir=str(tmp_path)))
    for message in spawn(refused_base, 1, cfg, other)[0]:
        assert message.startswith(f"model.path: {other} holds other weights than those that")


def save_untrained(hf: str, folder: str, state: dict) -> None:
    checkpoint.save(adapted(hf, ParallelConfig()), folder, state)


def whole_model(hf: str, folder: str) -> None:
    policy = build(hf, ParallelConfig())
    checkpoint.save(policy, folder, {"step": 1})


def refused_adapter(cfg: Config) -> str:
    with pytest.raises(ValueError) as error:
        convert_to_adapter(cfg)
    return str(error.value)


def test_a_run_without_lora_has_no_adapter_to_export(hf: str, tmp_path: Path) -> None:
    spawn(whole_model, 1, hf, str(tmp_path / "run" / "checkpoints" / "step_1"))
    cfg = Config(run=RunConfig(name="run", dir=str(tmp_path)), model=ModelConfig(path=hf))
    assert "was trained without LoRA and has no adapter" in spawn(refused_adapter, 1, cfg)[0]
