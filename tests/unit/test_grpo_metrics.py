"""Metric sums become means once, and the gates stop a run with the cause named."""

import math

import pytest

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.grpo.metrics import MismatchError, add_sums, check_gates, finish_metrics

GOOD = {"token_mult_prob_error": 1.01, "logprob_difference_max": 0.2, "loss": 0.0, "weight_version": 9.0}


def test_finished_means_weigh_tokens_not_updates():
    short = {"tokens": 1.0, "ratio_sum": 3.0, "logprob_difference_max": 0.5, "token_mult_prob_error_sum": 1.0}
    long = {"tokens": 9.0, "ratio_sum": 9.0, "logprob_difference_max": 0.1, "token_mult_prob_error_sum": 9.9}
    metrics = finish_metrics(add_sums([short, long]))
    assert metrics == pytest.approx(
        {
            "ratio/mean": 1.2,
            "token_mult_prob_error": 1.09,
            "logprob_difference_max": 0.5,
            "trained_tokens": 10.0,
        }
    )


def test_sums_are_joined_by_the_ending_of_their_name():
    assert add_sums([{"a": 1, "b_max": 2, "c_min": 3}, {"a": 4, "b_max": 1, "c_min": 1}]) == {
        "a": 5,
        "b_max": 2,
        "c_min": 1,
    }


def test_a_step_without_tokens_has_no_means():
    with pytest.raises(ValueError, match="without response tokens"):
        finish_metrics({"tokens": 0.0, "logprob_difference_max": 0.0})


def test_good_metrics_pass():
    check_gates(GOOD, GrpoConfig(max_token_mult_prob_error=1.05, max_logprob_difference=0.3), step=3)


def test_rollouts_of_older_weights_need_only_be_finite():
    cfg = GrpoConfig(max_token_mult_prob_error=1.05, max_logprob_difference=0.3, staleness=1)
    bad = GOOD | {"token_mult_prob_error": 1.2, "logprob_difference_max": 0.9, "weight_version": 6.0}
    check_gates(bad, cfg, step=7)
    with pytest.raises(MismatchError, match="token_mult_prob_error is 1.2"):
        check_gates(bad | {"weight_version": 7.0}, cfg, step=7)
    with pytest.raises(MismatchError, match="loss is nan"):
        check_gates(bad | {"loss": math.nan}, cfg, step=7)


def test_gates_at_zero_are_off():
    bad = GOOD | {"token_mult_prob_error": 9.0, "logprob_difference_max": 9.0}
    check_gates(bad, GrpoConfig(max_token_mult_prob_error=0.0, max_logprob_difference=0.0), step=3)


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
        check_gates(GOOD | changes, cfg, step=7)
    assert "older weights" in str(error.value) and "temperature" in str(error.value)
