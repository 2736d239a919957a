"""Transformer Engine's own Python, with torch's maths for its kernels, does what the local layers do.

What it shows: modules, parameter names, packed attention's arguments, rotary embedding, recomputation, the optimizer's
state and the recipes. What it does not: the kernels, and so any number of Transformer Engine's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.integration.te_program import FP8, RECOMPUTE, SIZES
from tests.unit.test_dockerfile import BASE_CUDNN, TORCH_CUDNN, in_the_image, two_cudnns

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["two_cudnns"]  # a fixture


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of the version that pyproject.toml names; kept in pytest's cache, where there is one."""
    version = re.search(r'"transformer-engine\[[^"]*==([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    cache, folder = getattr(request.config, "cache", None), tmp_path_factory.mktemp("wheel")
    kept = (cache.mkdir("transformer-engine") if cache else folder) / version
    if kept.is_dir():
        return kept
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
    done = subprocess.run([*download, f"transformer-engine=={version}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheel of transformer-engine {version}: {(done.stderr.strip() or '?').splitlines()[-1][:200]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    if not kept.exists():  # unless another run has put it there meanwhile
        shutil.move(folder / "unpacked", kept)
    return kept


@pytest.fixture(scope="module")
def found(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("te") / "found.pt"
    command = [sys.executable, "-m", "tests.integration.te_program", source, out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_log_probs_are_those_of_the_local_layers(found: dict, family: str, recompute: str) -> None:
    values = found["log-probs"][family]
    expected = values["local", "none"]
    assert len(expected) > 200 and expected.std() > 0.1
    torch.testing.assert_close(values["transformer_engine", recompute], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_gradients_are_those_of_the_local_layers(found: dict, recompute: str) -> None:
    values, expected = found["gradients"]["transformer_engine", recompute], found["gradients"]["local", "none"]
    assert values.keys() == expected.keys() and len(values) > 10
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(values[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_adapters_do_beside_its_layers_what_they_do_beside_the_local_ones(found: dict, recompute: str) -> None:
    (logprobs, gradients), (expected, of_local) = (
        found["lora"]["transformer_engine", recompute],
        found["lora"]["local", "none"],
    )
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=2e-6)
    assert gradients.keys() == of_local.keys() and len(gradients) == 2 * 4 * SIZES["num_hidden_layers"]
    for name, gradient in of_local.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_its_fused_adam_resumes_exactly(found: dict, dtype: str) -> None:
    run = found["checkpoints"][dtype]
    assert run["optimizer"] == "transformer_engine.pytorch.optimizers.fused_adam.FusedAdam"
    assert all(torch.equal(run["resumed"][name], weight) for name, weight in run["continued"].items())


def test_each_fp8_recipe_is_the_one_that_its_setting_names(found: dict) -> None:
    kinds = {"delayed": "TEDelayedScaling", "current": "Float8CurrentScaling", "blockwise": "Float8BlockScaling"}
    assert found["recipes"] == {recipe: (kinds[recipe], FP8[recipe].upper()) for recipe in FP8}


def test_the_plan_counts_the_weights_that_fp8_copies(found: dict) -> None:
    hidden, ffn, layers = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["num_hidden_layers"]
    keys = hidden * SIZES["num_key_value_heads"] // SIZES["num_attention_heads"]
    assert found["fp8 copies"] == layers * (2 * hidden * (hidden + keys) + 3 * hidden * ffn)


def test_fusions_reach_the_modules_and_the_own_operators_make_way(found: dict) -> None:
    plain, fused = found["options"]["plain"], found["options"]["fused"]
    assert (plain["fuse_wgrad_accumulation"], fused["fuse_wgrad_accumulation"]) == (False, True)
    assert (plain["attention"], fused["attention"]) == ("RotatedTEDotProductAttention", "TEDotProductAttention")
    assert (plain["activation"], fused["activation"]) == ("SwiGLU", "function")
    assert plain["eps"] == 1e-6 and plain["attention_dropout"] == 0.0


def test_no_layer_lets_the_host_wait(found: dict) -> None:
    """What one layer and three do alike is done once for a pack."""
    one, three = found["stops"]
    assert three == one


LOADER = """
import importlib.util, os, sys
os.environ["NVTE_PROJECT_BUILDING"] = "1"
spec = importlib.util.spec_from_file_location("common", sys.argv[1])
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)
print(common._load_cuda_library("cudnn")[1].cudnnGetVersion())
"""


@pytest.mark.parametrize("stage", [0, 1], ids=["builder", "runtime"])
def test_in_the_image_it_loads_the_cudnn_that_torch_brings(source: Path, two_cudnns: Path, stage: int) -> None:
    """By its own search, on a base that has another one in CUDA's folder."""
    (two_cudnns / "load.py").write_text(LOADER)
    words = [sys.executable, str(two_cudnns / "load.py"), str(source / "transformer_engine/common/__init__.py")]
    loaded = in_the_image(stage, two_cudnns, " ".join(words))
    assert loaded.returncode == 0, loaded.stderr
    assert int(loaded.stdout) == TORCH_CUDNN
    without = in_the_image(stage, two_cudnns, f"env -u CUDNN_HOME -u CUDNN_PATH {' '.join(words)}")
    assert int(without.stdout) == BASE_CUDNN  # what the image's environment is for
