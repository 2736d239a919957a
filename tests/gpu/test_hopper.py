"""What only a GPU can show: Transformer Engine against transformers, FP8 against BF16, speed, memory, colocated refit.

`./run test gpu -s`, or where there is another environment: `python -m pytest tests/gpu -s`

Every test says what it measured in the table at the end. Without a GPU one test still runs the workload's own code.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

from alphamed_nemo.config import Config, ModelConfig, ParallelConfig
from tests.gpu import workload
from tests.gpu.conftest import Row

BF16 = ModelConfig(dtype="bfloat16", spec="transformer_engine", max_length=4096)
needs_te = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is None, reason="Transformer Engine is not installed"
)
FP8 = [("hybrid", "delayed"), ("hybrid", "current"), ("e4m3", "blockwise")]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.5B with random weights."""
    return workload.write_model(tmp_path_factory.mktemp("half"), "0.5B")


@pytest.fixture(scope="module")
def rows() -> list:
    return workload.sequences(8, 256, 512, workload.VOCAB)


def test_the_workload_itself_runs_without_a_gpu_too(tmp_path: Path) -> None:
    folder = workload.write_model(tmp_path, "tiny")
    rows = workload.sequences(3, 8, 16, 512)
    own = workload.policy_logprobs(folder, ModelConfig(dtype="float32"), rows, 128)
    theirs = workload.transformers_logprobs(folder, rows, torch.float32)
    assert workload.mult_prob_error(own, theirs) < 1 + 1e-4
    speed = workload.train_speed(folder, ModelConfig(dtype="bfloat16"), 4, 8, 16, 128)
    assert speed.tokens_per_s > 0 and speed.utilisation > 0 and speed.planned_gib > 0


@needs_te
def test_transformer_engine_agrees_with_transformers(half: Path, rows: list, row: Row) -> None:
    exact = workload.transformers_logprobs(half, rows, torch.float32)
    theirs = workload.mult_prob_error(workload.transformers_logprobs(half, rows, torch.bfloat16), exact)
    own = workload.mult_prob_error(workload.policy_logprobs(half, BF16, rows, 1024), exact)
    row("token_mult_prob_error to float32, transformers in BF16", f"{theirs:.5f}")
    row("token_mult_prob_error to float32, Transformer Engine in BF16", f"{own:.5f}")
    assert own < 1.05 and own - 1 < 2 * (theirs - 1)


@needs_te
@pytest.mark.parametrize(("fp8", "recipe"), FP8, ids=[" ".join(pair) for pair in FP8])
def test_fp8_stays_within_its_gate(half: Path, rows: list, row: Row, fp8: str, recipe: str) -> None:
    bf16 = workload.policy_logprobs(half, BF16, rows, 1024)
    model = ModelConfig(dtype="bfloat16", spec="transformer_engine", fp8=fp8, fp8_recipe=recipe)
    error = workload.mult_prob_error(workload.policy_logprobs(half, model, rows, 1024), bf16)
    row(f"token_mult_prob_error of FP8 {fp8}, {recipe} scaling, to BF16", f"{error:.5f}")
    assert error < 1.1


@pytest.mark.parametrize("size", ["0.5B", "1.5B", "3B"])
@pytest.mark.parametrize("how", ["BF16", "FP8 hybrid current", "BF16, local layers"])
def test_speed_of_a_step_and_memory_against_the_plan(tmp_path: Path, row: Row, size: str, how: str) -> None:
    if how != "BF16, local layers" and importlib.util.find_spec("transformer_engine") is None:
        pytest.skip("Transformer Engine is not installed")
    if how == "BF16, local layers" and size == "3B":
        pytest.skip("the local attention is for small runs")
    spec = "local" if "local" in how else "transformer_engine"
    fp8 = {"fp8": "hybrid", "fp8_recipe": "current"} if "FP8" in how else {}
    model = ModelConfig(dtype="bfloat16", spec=spec, max_length=2048, **fp8)
    speed = workload.train_speed(workload.write_config(tmp_path, size), model, 32, 256, 768, 8192)
    row(
        f"train step, {size}, {how}",
        f"{speed.tokens_per_s:,.0f} tokens/s, {speed.utilisation:.0%} of 989 TFLOP/s, {speed.peak_gib:.1f} GiB at "
        f"most ({speed.planned_gib:.1f} planned)",
    )
    if how == "BF16":
        assert speed.peak_gib == pytest.approx(speed.planned_gib, rel=0.15, abs=1.0)


@needs_te
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_colocated_server_takes_the_weights_by_ipc(half: Path, rows: list, row: Row, tmp_path: Path) -> None:
    from alphamed_nemo.launch.components import free_port
    from alphamed_nemo.policy.policy import MegatronPolicy
    from alphamed_nemo.policy.weights import hf_shapes
    from alphamed_nemo.rollout.client import RolloutClient
    from alphamed_nemo.rollout.refit import WeightTransfer
    from alphamed_nemo.rollout.update_manifest import Manifest
    from alphamed_nemo.rollout.vllm_command import vllm_command

    cfg = Config()
    cfg.model.path, cfg.model.max_length = str(half), 4096
    cfg.rollout.transfer, cfg.rollout.dtype, cfg.rollout.gpu_memory_utilization = "ipc", "bfloat16", 0.3
    port = free_port()
    argv, env = vllm_command(cfg, half, port, "key", cuda=True)
    with (tmp_path / "vllm.log").open("w") as log:
        server = subprocess.Popen(argv, env=os.environ | env, stdout=log, stderr=log, start_new_session=True)
    try:
        client = RolloutClient(f"http://127.0.0.1:{port}", "key", cfg.rollout)
        client.connection.wait_ready(300)
        policy = MegatronPolicy(BF16, ParallelConfig(), None, half, random_seed=2)
        manifest = Manifest(hf_shapes(policy.hf_config), BF16.dtype)
        transfer = WeightTransfer(f"http://127.0.0.1:{port}", "key", cfg.rollout, manifest)
        seconds = []
        for version in range(1, 6):
            transfer.make_room()
            started = time.perf_counter()
            stats = transfer.refit(policy.hf_weights(), version)
            seconds.append(time.perf_counter() - started)
        row("colocated refit, 0.5B", f"{min(seconds):.2f} s, {stats.bytes / min(seconds) / 1e9:.1f} GB/s")
        ids = rows[0].prompt_ids + rows[0].response_ids
        served = torch.tensor(client.prompt_logprobs(ids)[len(rows[0].prompt_ids) - 1 :], dtype=torch.float64)
        own = workload.policy_logprobs_of(policy, rows[:1], 1024)
        assert workload.mult_prob_error(served, own) < 1.05
    finally:
        server.terminate()
        server.wait(60)
