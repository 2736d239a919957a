"""An export holds a layer and the largest tensor, whatever the size of the model.

python -m tests.integration.test_export_memory RUNS  # the export, by itself, printing its memory
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from alphamed_nemo.config import Config, ExportConfig, ModelConfig, ParallelConfig, RunConfig
from alphamed_nemo.export.convert import convert_to_hf
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights.table import hf_shapes
from tests.memory import peak_resident, resident
from tests.spawn import spawn

LAYOUT = ParallelConfig(tensor=2, pipeline=2)
MODEL = LlamaConfig(
    hidden_size=768,
    intermediate_size=2560,
    num_hidden_layers=18,
    num_attention_heads=12,
    num_key_value_heads=12,
    vocab_size=8000,
    max_position_embeddings=256,
    tie_word_embeddings=False,
)


def sizes() -> tuple[int, int, int]:
    """Bytes in float32 of the model, of a layer, and of the largest tensor."""
    tensors = {name: 4 * torch.Size(shape).numel() for name, shape in hf_shapes(MODEL).items()}
    layer = sum(size for name, size in tensors.items() if name.startswith("model.layers.0."))
    return sum(tensors.values()), layer, max(tensors.values())


def save(hf: str, folder: str) -> None:
    policy = MegatronPolicy(ModelConfig(dtype="float32"), LAYOUT, None, hf, random_seed=0)
    checkpoint.save(policy, folder, {"step": 1})


@pytest.mark.nightly
def test_an_export_holds_a_layer_and_the_largest_tensor(tmp_path: Path) -> None:
    model, layer, largest = sizes()
    assert model > 600e6 and layer < 40e6 and largest < 30e6
    MODEL.save_pretrained(tmp_path / "base")
    checkpoints = tmp_path / "run" / "checkpoints"
    spawn(save, LAYOUT.world_size, str(tmp_path / "base"), str(checkpoints / "step_1"), timeout_s=600)
    shown = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_export_memory", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        # Each thread has buffers of its own, and MKL keeps some tens of MB for the next product, whatever the model.
        env={**os.environ, "OMP_NUM_THREADS": "2", "MKL_DISABLE_FAST_MM": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    grown = int(shown.stdout.split()[-1])
    assert grown < 3 * (layer + largest) < model / 3
    index = json.loads((tmp_path / "run" / "hf" / "model.safetensors.index.json").read_text())["weight_map"]
    for name, shape in hf_shapes(MODEL).items():
        with safe_open(tmp_path / "run" / "hf" / index[name], framework="pt") as file:
            assert tuple(file.get_slice(name).get_shape()) == shape


def export(runs: Path) -> int:
    """By how many bytes the process grew at most."""
    assert LlamaForCausalLM  # imported before the measurement begins
    before = resident()
    cfg = Config(
        run=RunConfig(name="run", dir=str(runs)),
        model=ModelConfig(path=str(runs / "base"), dtype="float32"),
        export=ExportConfig(shard_gb=0.2),
    )
    convert_to_hf(cfg)
    return peak_resident() - before


if __name__ == "__main__":
    print(export(Path(sys.argv[1])))
