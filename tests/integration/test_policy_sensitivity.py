"""How log-probs move with the weights: as in transformers in float64, in every layout, and without a trace."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.sensitivity import BITS, sensitivity
from tests.integration import policy_runs
from tests.spawn import spawn
from tests.tiny_hf import write_model

_draw = random.Random(1)
IDS = [_draw.randrange(64) for _ in range(40)]


def measured(hf: str, parallel: ParallelConfig, dtype: str) -> tuple[float, bool]:
    """The sensitivity, and whether every weight has its bits of before."""
    policy = policy_runs.build(hf, parallel, dtype)
    before = policy_runs.weights_of(policy)
    (batch,) = pack([TrainSequence(IDS[:1], IDS[1:])], 128)
    found = sensitivity(policy, batch).square().mean().sqrt().item()
    after = policy_runs.weights_of(policy)
    return found, all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def independent(hf: Path) -> float:
    """The same from transformers in float64: weights taken apart with frexp, one binary digit changed."""
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float64).eval()
    weights = {name: parameter.detach().float().numpy() for name, parameter in model.named_parameters()}

    def logprobs(changed: dict[str, np.ndarray]) -> torch.Tensor:
        tensors = {name: torch.from_numpy(array).double() for name, array in changed.items()}
        with torch.no_grad():
            logits = torch.func.functional_call(model, tensors, (torch.tensor([IDS]),)).logits[0, :-1]
        return logits.log_softmax(-1).gather(1, torch.tensor(IDS[1:]).unsqueeze(1))

    def change(array: np.ndarray, bit: int) -> np.ndarray:
        if array.ndim < 2:
            return array
        mantissa, exponent = np.frexp(array.astype(np.float64))  # mantissa in [0.5, 1)
        digit = np.floor(np.abs(mantissa) * 2.0 ** (bit + 1)) % 2
        return np.ldexp(mantissa + np.sign(mantissa) * (1 - 2 * digit) * 2.0 ** -(bit + 1), exponent)

    squares = []
    for bit in BITS:
        moved = logprobs({name: change(array, bit) for name, array in weights.items()}) - logprobs(weights)
        squares.append((moved / (2.0**-bit * math.sqrt(0.375 / math.log(2)))).square().mean().item())
    return math.sqrt(sum(squares) / len(squares))


@pytest.mark.parametrize("name", ["llama-tied-odd-vocabulary", "qwen2", "qwen3-tied"])
def test_it_is_that_of_transformers_in_every_layout(tmp_path: Path, name: str):
    hf = write_model(tmp_path, name)
    expected = independent(hf)
    for parallel in (ParallelConfig(), ParallelConfig(tensor=2, pipeline=2)):
        for found, restored in spawn(measured, parallel.world_size, str(hf), parallel, "float32"):
            assert found == pytest.approx(expected, rel=1e-3)
            assert restored


def test_in_bfloat16_it_is_much_the_same_and_leaves_the_weights_alone(tmp_path: Path):
    hf = write_model(tmp_path, "llama")
    ((found, restored),) = spawn(measured, 1, str(hf), ParallelConfig(), "bfloat16")
    assert found == pytest.approx(independent(hf), rel=0.25)
    assert restored
