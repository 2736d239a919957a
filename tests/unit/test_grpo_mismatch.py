"""What stops a run whose two sides disagree: numbers that are not finite, and limits that the settings give."""

from __future__ import annotations

import math

import pytest

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.mismatch import MismatchError, check_finite, check_fixed

GOOD = {"token_mult_prob_error": 1.01, "logprob_difference_max": 0.2, "loss": 0.0}


def test_good_metrics_pass():
    check_finite(GOOD, 3)
    check_fixed(GOOD, GrpoConfig(max_token_mult_prob_error=1.05, max_logprob_difference=0.3), 3)


def test_no_limit_is_set_by_default():
    check_fixed(GOOD | {"token_mult_prob_error": 9.0, "logprob_difference_max": 9.0}, GrpoConfig(), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_mult_prob_error": 1.06}, r"step 7: token_mult_prob_error is 1.06 .*max_token_mult_prob_error=1.05"),
        ({"logprob_difference_max": 0.4}, r"step 7: logprob_difference_max is 0.4 .*max_logprob_difference=0.3"),
        ({"token_mult_prob_error": math.nan}, "step 7: token_mult_prob_error is nan"),
        ({"grad_norm": math.inf}, "step 7: grad_norm is inf"),
    ],
)
def test_a_broken_gate_names_metric_setting_and_likely_causes(changes, message):
    cfg = GrpoConfig(max_token_mult_prob_error=1.05, max_logprob_difference=0.3)
    with pytest.raises(MismatchError, match=message) as error:
        check_finite(GOOD | changes, 7)
        check_fixed(GOOD | changes, cfg, 7)
    assert "older weights" in str(error.value) and "temperature" in str(error.value)
