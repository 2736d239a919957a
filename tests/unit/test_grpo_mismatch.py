"""What stops a run whose two sides disagree: numbers that are not finite, and limits that the settings give."""

from __future__ import annotations

import math

import pytest

from alphamed_nemo.config import GrpoConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.mismatch import MismatchError, check_finite, check_fixed, sample
from alphamed_nemo.rollout.types import Rollout

GOOD = {"token_mult_prob_error": 1.01, "logprob_difference_max": 0.2, "loss": 0.0}
QUESTION = Question("q", "clinic", "Which?", ("one", "two"), "A")


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


def group(lengths: list[int]) -> Group:
    rollouts = [Rollout([1, 2], list(range(length)), [0.0] * length, 0, False, "") for length in lengths]
    return Group(QUESTION, rollouts, [], [])


def test_the_limit_is_measured_on_responses_of_as_many_questions_as_fit():
    groups = [group([3, 30]), group([4, 5]), group([20, 6])]
    lengths = [len(sequence.response_ids) for sequence in sample(groups, 22)]
    assert lengths == [3, 4, 5]  # with prompts 5 + 6 + 7 of 22: first of each question, then the seconds


def test_one_response_is_measured_on_however_long_it_is():
    assert [len(sequence) for sequence in sample([group([50, 3])], 10)] == [52]
