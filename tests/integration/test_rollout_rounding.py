"""On processors for which vLLM's kernels cut float32 off to bfloat16, the server is as exact as where they round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import alphamed_nemo
from tests.integration.conftest import served

TOKENIZER = next(iter(alphamed_nemo.__path__)) + "/assets/tiny_base"
IDS = [[1, *torch.randint(3, 512, (199,), generator=torch.Generator().manual_seed(seed)).tolist()] for seed in range(4)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Eight layers, whose errors add up, with weights large enough that attention is not uniform."""
    config = LlamaConfig(
        num_hidden_layers=8,
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        vocab_size=512,
        initializer_range=0.1,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logprobs(folder: Path, dtype: torch.dtype) -> Tensor:
    """transformers' log-probs [sequences, tokens - 1], float64, of a model that computes in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        found = model(torch.tensor(IDS)).logits[:, :-1].double().log_softmax(-1)
    return found.gather(-1, torch.tensor(IDS)[:, 1:, None]).squeeze(-1)


def test_log_probs_in_bfloat16_are_as_near_to_float64_as_transformers_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exact, rounded = logprobs(model, torch.float64), logprobs(model, torch.bfloat16)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with served(model, tmp_path, dtype="bfloat16") as server:
        pool = server.pool()
        found = torch.tensor([pool.clients[0].prompt_logprobs(ids) for ids in IDS]).double()
        pool.close()
    assert "do not round to bfloat16" in server.log.read_text()
    # 0.95 where everything is rounded; 1.15 where only the norms are, 1.7 where nothing is
    assert (found - exact).square().mean().sqrt() < 1.05 * (rounded - exact).square().mean().sqrt()
