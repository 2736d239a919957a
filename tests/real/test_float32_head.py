"""A published model in bfloat16: with logits in float32 trainer and vLLM agree more closely on what vLLM sampled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.config.choices import HeadDtype, names
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.processor import this_processor
from tests.real.test_smollm2 import ROOT, model
from tests.spawn import spawn

__all__ = ["model"]  # a fixture


def of_policy(hf: str, rows: list[tuple[list[int], list[int]]], head_dtype: HeadDtype) -> Tensor:
    """Log-probs of the responses, one sequence a pack."""
    policy = MegatronPolicy(ModelConfig(dtype="bfloat16", head_dtype=head_dtype), ParallelConfig(), None, hf)
    found = []
    for prompt, response in rows:
        (batch,) = pack([TrainSequence(prompt, response, advantage=1.0)], 128)
        found.append(policy.logprobs([batch], 1.0)[0][batch.mask])
    return torch.cat(found)


@pytest.mark.nightly
def test_logits_in_float32_shrink_the_mismatch(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if this_processor().fastest_dtype != "bfloat16":
        pytest.skip("bfloat16 is slow on this processor")
    command = [sys.executable, "-m", "tests.real.head_mismatch", model, tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    apart, means = {}, {}
    for head, (rows, sampled, seconds) in torch.load(tmp_path / "sampled.pt").items():
        (own,) = spawn(of_policy, 1, str(model), rows, head, timeout_s=600)
        apart[head] = (own - sampled).abs()
        means[head] = float(apart[head].mean())
        above = {nats: float((apart[head] > nats).float().mean()) for nats in (0.05, 0.1, 0.2)}
        shares = ", ".join(f"{share:.1%} above {nats}" for nats, share in above.items())
        with capsys.disabled():
            print(
                f"\nlogits in {head}: mean {means[head]:.4f}, largest {float(apart[head].max()):.3f} nats, {shares}; "
                f"{len(sampled)} tokens, {seconds:.1f} s of processor time to sample"
            )
    assert set(means) == set(names(HeadDtype))
    assert means["float32"] < means["model"]
