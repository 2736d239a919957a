"""What a release folder says about itself, and what it refuses to overwrite."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from transformers import LlamaConfig

from alphamed_nemo import provenance
from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export.base_model import BaseModel
from alphamed_nemo.export.markdown import table
from alphamed_nemo.export.release import Origin, export_hf
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.policy.weights.table import hf_shapes
from tests.stand_in_checkpoint import LAYOUT
from tests.unit.released_run import make_checkpoint, make_run, settings

CONFIG = LlamaConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=9
)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    CONFIG.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    for name in ("LICENSE.txt", "optimizer.bin"):
        (folder / name).write_text(name)
    return folder


def stream():
    return [(name, torch.full(shape, 0.1)) for name, shape in hf_shapes(CONFIG).items()]


def export(base, out, dtype="bfloat16", step=7, **more):
    checkpoint = base.parent / "checkpoints" / f"step_{step}"
    if not checkpoint.exists():
        make_checkpoint(checkpoint, {"step": step})
    origin = Origin(BaseModel.of(base), TrainingRecord.of(checkpoint))
    return export_hf(stream(), CONFIG, origin, out, dtype, **more)


def test_files_of_a_release(base, tmp_path):
    out = export(base, tmp_path / "hf")
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSE.txt",
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((out / "config.json").read_text())
    assert config.pop("dtype") == "bfloat16"
    before = json.loads((base / "config.json").read_text())
    before.pop("dtype", None)
    assert config == before


def test_provenance(base, tmp_path):
    out = export(base, tmp_path / "hf", check=lambda folder: 2e-7)
    origin = json.loads((out / "provenance.json").read_text())
    assert origin["files"].keys() == {path.name for path in out.iterdir()} - {"README.md", "provenance.json"}
    for name, digest in origin["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert origin["step"] == 7 and origin["dtype"] == "bfloat16" and origin["largest_logit_difference"] == 2e-7
    assert {"python", "torch", "transformers", "megatron-core"} <= origin["versions"].keys()
    assert (
        origin["base_model"]["files"]["config.json"] == hashlib.sha256((base / "config.json").read_bytes()).hexdigest()
    )
    manifest = base.parent / "checkpoints" / "step_7" / "manifest.json"
    assert origin["checkpoint"]["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert origin["checkpoint"]["name"] == "step_7" and origin["checkpoint"]["layout"] == LAYOUT


def test_provenance_has_the_settings_of_the_method_and_names_those_left_out(tmp_path):
    cfg = settings(tmp_path / "runs")
    cfg.rollout.urls, cfg.rollout.temperature = ["http://localhost:1"], 0.7
    folder = make_run(cfg)
    record = TrainingRecord.of(folder.checkpoints / "step_20")
    found = provenance.public_settings(record.settings)
    assert found["grpo"]["steps"] == 20 and found["rollout"]["temperature"] == 0.7
    assert found["grpo"]["questions"] == "subset.jsonl" and found["model"]["path"] == "tiny_base"
    assert not {"url", "host", "port", "api_key", "extra_args"} & (found["rollout"].keys() | found["reward"].keys())
    assert provenance.left_out(record.settings) == ["rollout.urls"]


def test_an_earlier_release_is_replaced_and_anything_else_is_not(base, tmp_path):
    out = export(base, tmp_path / "hf", "float32")
    (out / "stale.txt").write_text("of the earlier release")
    assert not (export(base, out) / "stale.txt").exists()

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="thesis is there and is no release folder"):
        export(base, other)
    with pytest.raises(ValueError, match="base model's own folder"):
        export(base, base)
    assert (other / "chapter.txt").exists()


def test_a_release_that_is_refused_is_kept_beside_the_earlier_one(base, tmp_path):
    out = export(base, tmp_path / "hf", step=1)

    def fail(folder):
        raise error

    for error, left in (
        (OSError("disk"), ["base", "checkpoints", "hf"]),
        (ConversionError("wrong"), [".hf.partial", "base", "checkpoints", "hf"]),
    ):
        with pytest.raises(type(error)):
            export(base, out, check=fail, step=2)
        assert json.loads((out / "provenance.json").read_text())["step"] == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    export(base, out, step=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoints", "hf"]


def test_unknown_dtype(base, tmp_path):
    with pytest.raises(ValueError, match="export.dtype: found 'float16', expected one of float32, bfloat16"):
        export(base, tmp_path / "hf", "float16")


def test_what_is_in_a_cell_of_a_table_stays_in_it():
    assert table(["a", "b"], [["x | y", "two\nlines"]]) == "| a | b |\n| --- | --- |\n| x \\| y | two lines |"
