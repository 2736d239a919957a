"""Which value a response states, and whether it is right; the tolerance against the authors' rule, written anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.answers.numeric import extract_value
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.value import Value
from alphamed_nemo.evaluation.grading import grade_set


@pytest.mark.parametrize(
    ("said", "kind", "read"),
    [
        (r"\boxed{25.2}", "decimal", "25.2"),
        (r"\boxed{25.2 \text{ mL/min/1.73 m}^2}", "decimal", "25.2"),
        (r"\boxed{24.1 kg/m^2}", "decimal", "24.1"),
        (r"\boxed{24.1 kg/m²}", "decimal", "24.1"),
        (r"\boxed{BMI = 24.1}", "decimal", "24.1"),
        (r"\boxed{1,234.5 mg}", "decimal", "1234.5"),
        (r"\boxed{1{,}234}", "decimal", "1234"),
        (r"\boxed{2.5 \times 10^{9}}", "decimal", "2.5e9"),
        (r"\boxed{−4.0 mEq/L}", "decimal", "-4.0"),
        (r"\boxed{53.1\%}", "decimal", "53.1%"),
        (r"\boxed{3 out of 5}", "integer", "3"),
        (r"\boxed{3/5 points}", "integer", "3"),
        (r"\boxed{between 20 and 25}", "decimal", None),
        (r"\boxed{20-25}", "decimal", None),
        (r"\boxed{unknown}", "decimal", None),
        (r"\boxed{1.2.3}", "decimal", None),
        (r"\boxed{20} or rather \boxed{25}", "decimal", "25"),
        (r"It is 25.2.", "decimal", None),
        (r"\boxed{3/5/2014}", "date", "03/05/2014"),
        (r"\boxed{03/05/2014 or 04/05/2014}", "date", None),
        (r"\boxed{31/05/2014}", "date", None),
        (r"\boxed{04/31/2014}", "date", None),
        (r"\boxed{17 weeks, 4 days}", "weeks", "(17, 4)"),
        (r"\boxed{(17, 4)}", "weeks", "(17, 4)"),
        (r"\boxed{17 \text{ weeks and } 4 \text{ days}}", "weeks", "(17, 4)"),
        (r"\boxed{17}", "weeks", None),
        (r"\boxed{17 weeks}", "weeks", None),
    ],
)
def test_boxed_reads_one_value_or_none(said, kind, read):
    assert extract_value(said, kind, "boxed") == read


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("So the answer is 25.2 mL/min, since the clearance is low at 80 years.", "25.2"),
        ('{"step_by_step_thinking": "60 / 2.25", "answer": "26.67"}', "26.67"),
        ("**Answer:** 12", "12"),
        ("The answer is 5. Or the answer is 6.", "6"),
        ("The answer is about 20 to 25", None),
        ("There are 3 of them", None),
    ],
)
def test_other_protocols_also_read_what_follows_a_cue(said, read):
    assert extract_value(said, "decimal", "lenient") == read
    assert extract_value(said, "decimal", "boxed") is None


@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-3), st.floats(0.8, 1.2))
def test_a_decimal_is_right_within_the_authors_limits(truth, share):
    """Theirs: lower <= answer <= upper, with limits of 95 and 105 % of the truth."""
    low, high = sorted((0.95 * truth, 1.05 * truth))
    stated = truth * share
    value = Value("decimal", repr(truth), low, high)
    assert value.accepts(f"{stated:.17g}") == (low <= float(f"{stated:.17g}") <= high)


@given(st.integers(-50, 50), st.floats(-60, 60))
def test_an_integer_is_rounded_as_the_authors_do(truth, stated):
    assert Value("integer", str(truth)).accepts(f"{stated:.6f}") == (round(float(f"{stated:.6f}")) == truth)


def test_percent_is_a_share_or_the_number_as_it_stands():
    assert Value("decimal", "0.53", 0.5, 0.56).accepts("53.1%")
    assert Value("decimal", "53", 50, 56).accepts("53.1%")
    assert not Value("decimal", "53", 50, 56).accepts("0.531")
    assert not Value("decimal", "53", 50, 56).accepts("1e999")


def test_right_values_agree_in_a_majority_and_wrong_ones_stay_as_stated():
    value = {"kind": "decimal", "low": "24", "high": "26"}
    question = Question("v1", "medcalc", "What is the BMI?", (), "25", metadata={"value": value})
    texts = {"v1": [r"\boxed{24.5}", r"\boxed{30}", r"\boxed{25.5}", r"\boxed{30}", "no idea"]}
    (grade,) = grade_set([question], texts, "boxed")
    assert grade.answers == ("25", "30", "25", "30", None)
    assert grade.correct == (True, False, True, False, False)
    (unsure,) = grade_set([question], texts, "first_or_last")
    assert unsure.answers == grade.answers


@pytest.mark.parametrize("value", [None, {}, {"kind": "decimal"}, {"kind": "decimal", "low": "26", "high": "30"}])
def test_a_question_without_options_needs_a_value_that_its_answer_meets(value):
    with pytest.raises(ValueError, match="v1: "):
        Question("v1", "medcalc", "What is the BMI?", (), "25", metadata={} if value is None else {"value": value})
