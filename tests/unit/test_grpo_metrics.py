"""Metric sums become means once."""

import pytest

from alphamed_nemo.grpo.metrics import add_sums, finish_metrics


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
