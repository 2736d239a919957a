"""The limit under which served and trained log-probs are taken for those of the same weights."""

from __future__ import annotations

import math

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.refit_check import coarsest
from alphamed_nemo.rollout.check import RELATIVE, rms, tolerance


@pytest.mark.parametrize("rounding", list(RELATIVE))
def test_the_limit_grows_with_the_model_and_is_never_below_rounding_of_the_values(rounding: str):
    assert tolerance(rounding, 40.0, [-1.0]) == pytest.approx(2 * tolerance(rounding, 20.0, [-1.0]))
    assert tolerance(rounding, 1e-9, [-12.0, -12.0]) == pytest.approx(12 * RELATIVE[rounding])


def test_a_value_that_is_no_number_is_no_difference():
    assert math.isnan(rms([0.0, math.nan]))
    assert rms([3.0, -4.0]) == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize(
    ("model", "rollout", "fp8", "quantization", "expected"),
    [
        ("float32", "float32", "", "", "float32"),
        ("float32", "bfloat16", "", "", "bfloat16"),
        ("bfloat16", "float32", "", "", "bfloat16"),
        ("bfloat16", "bfloat16", "", "", "bfloat16"),
        ("bfloat16", "bfloat16", "hybrid", "", "fp8"),
        ("float32", "bfloat16", "", "fp8", "fp8"),
    ],
)
def test_the_coarser_side_counts(model: str, rollout: str, fp8: str, quantization: str, expected: str):
    cfg = Config()
    cfg.model.dtype, cfg.rollout.dtype, cfg.model.fp8, cfg.rollout.quantization = model, rollout, fp8, quantization
    assert coarsest(cfg) == expected
