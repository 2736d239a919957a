"""Pre-training: what it writes loads everywhere, the loss falls, data-parallel ranks change nothing but rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphamed_nemo.clinic.corpus import corpus
from alphamed_nemo.config import ParallelConfig, TinyModelConfig
from tests.spawn import spawn

SMALL = {"hidden": 64, "layers": 2, "ffn": 96, "worked_examples": 620, "late_examples": 100, "fact_documents": 20}
CONFIG = TinyModelConfig(**SMALL, batch=16, warmup_steps=5)
STEPS = 40


def trained(folder: str, ranks: int) -> list[float]:
    from alphamed_nemo.clinic.pretrain import pretrain

    losses: list[float] = []
    pretrain(CONFIG, folder, ParallelConfig(data=ranks), lambda step, steps, stats: losses.append(stats.loss))
    return losses


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("base")
    return folder, spawn(trained, 1, str(folder), 1)[0]


def test_one_pass_over_the_corpus_lowers_the_loss(base):
    losses = base[1]
    assert len(losses) == STEPS
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_written_model_is_the_trained_one(base):
    """Its loss on the last batch, by transformers in float32, is about the last that training saw."""
    folder, losses = base
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = list(corpus(CONFIG.worked_examples, CONFIG.late_examples, CONFIG.fact_documents, CONFIG.seed))
    total = 0.0
    for text in texts[-CONFIG.batch :]:
        prompt = tokenizer.encode(text.prompt)
        ids = prompt + tokenizer.encode(text.response, add_special_tokens=False) + [tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(prompt) :]), reduction="sum").item()
    assert total / (CONFIG.batch * 30) == pytest.approx(losses[-1], rel=0.05)


def test_two_data_parallel_ranks_see_the_same_losses(base, tmp_path):
    one = base[1]
    first, second = spawn(trained, 2, str(tmp_path), 2)
    assert first == second
    assert first == pytest.approx(one, rel=0.02)


def test_same_seed_gives_the_same_weights(base, tmp_path):
    spawn(trained, 1, str(tmp_path), 1)
    assert (tmp_path / "model.safetensors").read_bytes() == (base[0] / "model.safetensors").read_bytes()


def test_corpus_smaller_than_the_warm_up_is_refused(tmp_path):
    from alphamed_nemo.clinic.pretrain import pretrain

    with pytest.raises(ValueError, match="tiny.warmup_steps=100"):
        pretrain(TinyModelConfig(worked_examples=64, late_examples=8, fact_documents=0), tmp_path, ParallelConfig())
