"""Llama-3.1-8B at its true dimensions through the weight map and the export, a slice at a time.

python -m tests.integration.test_true_dimensions FOLDER  # the export, by itself, printing its peak memory
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig

from alphamed_nemo.config import Config
from alphamed_nemo.export.shards import plan, write_shards
from alphamed_nemo.plan.prediction import make_plan
from alphamed_nemo.plan.sizes import SHIPPED, load_model
from alphamed_nemo.policy.weights.table import Entry, WeightTable, hf_shapes
from tests.memory import peak_resident, resident

NAME = "Llama-3.1-8B-Instruct"
PARAMETERS = 8_030_261_248  # as its authors' files hold them
TENSOR = 8


def config(**changes: int) -> LlamaConfig:
    values = json.loads((SHIPPED / f"{NAME}.json").read_text())
    return LlamaConfig(**values | changes)


SLICE = config(num_hidden_layers=1, tie_word_embeddings=True)


def rows() -> list[Entry]:
    """Every kind of row: the embedding, whose transform the output projection shares, and those of one layer."""
    table = WeightTable(config())
    return [entry for block in table.blocks[:2] for entry in block.entries]


def local_rows(entry: Entry) -> int:
    """Rows of the Megatron parameter on one of the tensor-parallel ranks; the vocabulary divides without padding."""
    whole = sum(shape[0] for _, shape in entry.hf)
    kept_whole = type(entry.transform).__name__ in ("Replicated", "RowParallel")
    return whole if kept_whole else whole // TENSOR


@pytest.mark.parametrize("entry", rows(), ids=lambda entry: entry.megatron[0])
def test_every_row_goes_to_eight_ranks_and_back_bit_by_bit(entry: Entry) -> None:
    generator = torch.Generator().manual_seed(0)
    sources = [
        torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=generator).view(torch.bfloat16)
        for _, shape in entry.hf
    ]
    shards = [entry.transform.shard(sources, rank, TENSOR, local_rows(entry)) for rank in range(TENSOR)]
    assert {tuple(shard.shape) for shard in shards} == {tuple(shards[0].shape)}
    for back, source in zip(entry.transform.merge(shards), sources, strict=True):
        assert torch.equal(back.view(torch.int16), source.view(torch.int16))


def test_names_and_files_are_those_of_the_whole_model_and_nothing_is_allocated() -> None:
    shapes = hf_shapes(config())
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == PARAMETERS
    files = plan(shapes, torch.bfloat16, 5 * 10**9)
    assert [name for names in files for name in names] == list(shapes)
    sizes = [sum(2 * torch.Size(shapes[name]).numel() for name in names) for names in files]
    assert len(files) == 4 and max(sizes) <= 5 * 10**9


def test_the_plan_knows_its_size() -> None:
    cfg = Config()
    cfg.model.path, cfg.model.dtype, cfg.rollout.dtype = NAME, "bfloat16", "bfloat16"
    cfg.model.max_length, cfg.rollout.max_new_tokens = 4096, 2048
    cfg.parallel.tensor, cfg.parallel.data = 2, 4
    assert load_model(NAME).parameters == PARAMETERS
    made = make_plan(cfg)
    # BF16 weights, and gradients in float32, of half of the model on each rank
    assert made.memory[0].parts["weights"] == pytest.approx(PARAMETERS, rel=0.01)
    assert made.memory[0].parts["gradients"] == pytest.approx(2 * PARAMETERS, rel=0.01)


def export_slice(folder: Path) -> None:
    """The embedding and one layer in their true sizes, made one at a time as they would stream past."""
    shapes = hf_shapes(SLICE)
    stream = ((name, torch.full(shape, 0.5, dtype=torch.bfloat16)) for name, shape in shapes.items())
    write_shards(stream, shapes, folder, torch.bfloat16, shard_gb=0.2)


def test_an_export_holds_little_more_than_its_largest_tensor(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_true_dimensions", str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    before, after = map(int, shown.stdout.split()[-2:])
    largest = 2 * 128_256 * 4096  # bytes of the embedding in bfloat16
    assert after - before < 1.2 * largest  # the tensor that streams past
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == hf_shapes(SLICE).keys()
    for name, shape in hf_shapes(SLICE).items():
        with safe_open(tmp_path / index["weight_map"][name], framework="pt") as file:
            assert tuple(file.get_slice(name).get_shape()) == shape


if __name__ == "__main__":
    start = resident()
    export_slice(Path(sys.argv[1]))
    print(start, peak_resident())
