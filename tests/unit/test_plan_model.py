"""A model's dimensions: totals as published, and true models through the weight map without their memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.families import SIZES
from alphamed_nemo.plan.sizes import SHIPPED, load_model, local_shape, model_of

# What the authors' safetensors files hold.
PUBLISHED = {
    "Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Llama-3.2-3B-Instruct": 3_212_749_824,
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Llama-3.1-70B-Instruct": 70_553_706_496,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_shipped_dimensions_give_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert load_model(name).parameters == parameters
    assert load_model(f"somewhere/models/{name}").parameters == parameters  # as conf/model names it


@pytest.mark.parametrize("name", ["Llama-3.1-8B-Instruct", "Llama-3.2-3B-Instruct", "Qwen3-14B"])
def test_a_model_passes_through_the_weight_map_without_its_memory(name: str, tmp_path: Path) -> None:
    model = load_model(name)
    shutil.copy(SHIPPED / f"{name}.json", tmp_path / "config.json")
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert model.table.shapes() == {name: tuple(p.shape) for name, p in theirs.named_parameters()}

    tensor = 8
    weights = dict(theirs.named_parameters())
    for entry in model.table.entries():
        sources = [weights[name] for name in entry.names]
        shape = local_shape(entry, tensor)
        shards = [entry.transform.shard(sources, rank, tensor, shape[0]) for rank in range(tensor)]
        assert all(tuple(shard.shape) == shape and shard.is_meta for shard in shards), entry.megatron
        merged = entry.transform.merge(shards)
        assert [tuple(part.shape) for part in merged] == [shape for _, shape in entry.hf], entry.names


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("layout", [{}, {"tensor": 2}, {"pipeline": 4}, {"tensor": 2, "pipeline": 2}])
def test_the_ranks_together_hold_every_parameter(name: str, layout: dict) -> None:
    model, parallel = load_model(name), ParallelConfig(**layout)
    chunks = [chunk for stage in range(parallel.pipeline) for chunk in model.chunks_of(parallel, stage)]
    held = parallel.tensor * sum(elements for chunk in chunks for elements, _ in chunk)
    # Norms are on every tensor-parallel rank, and a tied embedding on the first and the last stage.
    norms = sum(math.prod(shape) for shape in model.table.shapes().values() if len(shape) == 1)
    biases = sum(math.prod(s) for n, s in model.table.shapes().items() if n.endswith("bias"))
    twice = model.vocab * model.hidden if model.tied and parallel.pipeline > 1 else 0
    assert held == model.parameters + (parallel.tensor - 1) * (norms - biases) + twice


def test_interleaved_stages_hold_every_layer_once() -> None:
    model, parallel = load_model("Llama-3.1-70B-Instruct"), ParallelConfig(pipeline=4, virtual_pipeline=2)
    stages = [model.layers_of(parallel, stage) for stage in range(4)]
    assert sorted(layer for stage in stages for chunk in stage for layer in chunk) == list(range(80))
    assert stages[1] == [list(range(10, 20)), list(range(50, 60))]


def test_a_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    config = json.loads((SHIPPED / "Qwen2.5-3B-Instruct.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(str(tmp_path)).layers == 2


def test_a_model_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model.path: there is no config.json in gpt; .* Llama-3.1-8B-Instruct"):
        load_model("gpt")
    with pytest.raises(ValueError, match="config.json: vocab_size: found no such key"):
        model_of("x", {"model_type": "llama"} | dict.fromkeys(SIZES[:-1], 1))
