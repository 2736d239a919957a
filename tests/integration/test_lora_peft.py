"""PEFT computes from an exported adapter, in float64, what Megatron computes with the adapters that it is made from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alphamed_nemo.config import Config, ExportConfig, ModelConfig, ParallelConfig, RunConfig
from tests.integration.lora_runs import LORA, drawn, held, put, rows_of
from tests.integration.peft_program import SEQUENCES, backward, logprobs_of, loss_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("peft==0.21.2", "accelerate==1.15.0")  # PEFT imports accelerate
FAMILIES = ("llama-scaled-rope-tied", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheels; kept in pytest's cache, where there is one."""
    cache, folder = getattr(request.config, "cache", None), tmp_path_factory.mktemp("wheels")
    kept = (cache.mkdir("peft") if cache else folder) / "-".join(WHEELS)
    if kept.is_dir():
        return kept
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}", *WHEELS]
    done = subprocess.run(download, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheels of {', '.join(WHEELS)}: {(done.stderr.strip() or '?').splitlines()[-1][:200]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "unpacked")
    if not kept.exists():
        shutil.move(folder / "unpacked", kept)
    return kept


@pytest.fixture(scope="module")
def both(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict, dict]]:
    """By family: the folder of the model, what Megatron computes, what PEFT computes."""
    folder = tmp_path_factory.mktemp("families")
    ours, bases = {}, {}
    for family in FAMILIES:
        bases[family] = str(write_model(folder / family / "base", family))
        (ours[family],) = spawn(computed, 1, bases[family], str(folder / family))
    folders = [part for family in FAMILIES for part in (bases[family], ours[family]["adapter"])]
    command = [sys.executable, "-m", "tests.integration.peft_program", source, folder / "out.pt", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = torch.load(folder / "out.pt")
    return {family: (bases[family], ours[family], theirs[ours[family]["adapter"]]) for family in FAMILIES}


def computed(hf: str, root: str) -> dict[str, Any]:
    """Log-probs and gradients in float64, merged weights, and the folder of the exported adapter."""
    from alphamed_nemo.export.convert import convert_to_adapter
    from alphamed_nemo.export.float64 import Float64
    from alphamed_nemo.policy.checkpoint import folder as checkpoint
    from alphamed_nemo.policy.local.attention import SegmentParams
    from alphamed_nemo.policy.model import rope_frequencies
    from alphamed_nemo.policy.policy import MegatronPolicy

    model = ModelConfig(path=hf, dtype="float32")
    policy = MegatronPolicy(model, ParallelConfig(), None, hf, lora=LORA)
    put(policy, drawn(hf))
    checkpoint.save(policy, f"{root}/run/checkpoints/step_1", {"step": 1})
    cfg = Config(run=RunConfig(name="run", dir=root), model=model, export=ExportConfig(adapter=True))
    adapter = convert_to_adapter(cfg)
    (chunk,) = policy.model
    chunk.double()
    merged = {name: tensor for name, tensor in policy.hf_weights() if tensor is not None}
    lengths = [len(ids) for ids in SEQUENCES]
    with Float64():
        chunk.rotary_pos_emb.inv_freq = rope_frequencies(policy.hf_config)
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        tokens = torch.tensor([sum(SEQUENCES, [])])
        logits = chunk(tokens, positions, None, packed_seq_params=SegmentParams.of(bounds, max(lengths)))
        parts = logits[0].split(lengths)
        logprobs = [logprobs_of(part, ids) for part, ids in zip(parts, SEQUENCES, strict=True)]
        backward(loss_of(logprobs))
    gradients = {name: (adapter.a.grad, adapter.b.grad) for name, adapter in held(policy).items()}
    return {
        "logprobs": [values.detach() for values in logprobs],
        "gradients": gradients,
        "merged": merged,
        "adapter": str(adapter),
    }


def largest(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == expected.dtype == torch.float64 and found.shape == expected.shape
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_gradients_and_merged_weights_are_pefts(both: dict[str, tuple[str, dict, dict]], family: str) -> None:
    hf, ours, theirs = both[family]
    pairs = zip(ours["logprobs"], theirs["logprobs"], strict=True)
    logprobs = max(largest(values, expected) for values, expected in pairs)
    merged = max(largest(ours["merged"][name], weight) for name, weight in theirs["merged"].items())
    gradients = 0.0
    for name, entry in rows_of(hf).items():
        a, b = ours["gradients"][name]
        places = [f"base_model.model.{matrix.removesuffix('.weight')}" for matrix in entry.names]
        of_a = [theirs["gradients"][f"{place}.lora_A.default.weight"] for place in places]
        of_b = [theirs["gradients"][f"{place}.lora_B.default.weight"] for place in places]
        gradients = max(gradients, largest(a, sum(of_a)) / sum(of_a).abs().max().item())
        for rows, expected in zip(entry.adapter_rows(b), of_b, strict=True):
            gradients = max(gradients, largest(rows, expected) / expected.abs().max().item())
    print(
        f"{family}: largest differences {logprobs:.1e} of log-probs, {gradients:.1e} of gradients, {merged:.1e} merged"
    )
    assert torch.cat(ours["logprobs"]).std() > 0.1
    assert logprobs < 1e-12 and gradients < 1e-11 and merged < 1e-14
