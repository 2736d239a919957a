"""The training rule, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.rewards.rule import score
from alphamed_nemo.rewards.score import RewardItem

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")

READ_AS_C = [
    r"\boxed{C}",
    r"\boxed{c}",
    r"\boxed{ C }",
    r"\boxed {C}",
    "\\boxed{\nC\n}",
    r"\boxed{C.}",
    r"\boxed{C)}",
    r"\boxed{(C)}",
    r"\boxed{[C]}",
    r"\boxed{'C'}",
    r"\boxed{**C**}",
    r"\boxed{$C$}",
    r"\boxed{\$C\$}",
    r"\boxed{{C}}",
    r"\boxed{\text{C}}",
    r"\boxed{\textbf{(C)}}",
    r"\boxed{\mathrm{C}}",
    r"\boxed{\boxed{C}}",
    r"\boxed{Option C}",
    r"\boxed{Answer: C}",
    r"\boxed{The answer is C}",
    r"\boxed{C: Ibuprofen}",
    r"\boxed{C. Ibuprofen}",
    r"\boxed{\text{C. Ibuprofen}}",
    r"\boxed{(C) Ibuprofen}",
    r"\boxed{C Ibuprofen}",
    r"\boxed{C - Ibuprofen}",
    r"\boxed{C: an NSAID}",
    r"\boxed{Ibuprofen}",
    r"\boxed{ibuprofen.}",
    r"\boxed{Ibuprofen (C)}",
    r"\boxed{A} no, \boxed{C}",
    r"\boxed{C} is my answer; A is wrong.",
    r"\boxed{C}}}}",
    r"{{{\boxed{C}",
    r"The final answer is: $\boxed{C}$",
    r"\boxed{} then \boxed{C}",
]
READ_AS_NONE = [
    "",
    "The answer is C",
    "boxed{C}",
    r"\boxed",
    r"\boxed C",
    r"\boxed{C",
    r"\boxed{C\}",
    r"\boxed{}",
    r"\boxed{ }",
    r"\boxed{\boxed{}}",
    r"\boxed{C} and then \boxed{}",
    r"\boxed{C} and then \boxed{A",
    r"\boxed{E}",
    r"\boxed{Z}",
    r"\boxed{AB}",
    r"\boxed{ABCD}",
    r"\boxed{A, B}",
    r"\boxed{A,B,C,D}",
    r"\boxed{A and B}",
    r"\boxed{A \text{ or } B}",
    r"\boxed{A/B}",
    r"\boxed{A|B}",
    r"\boxed{A+B}",
    r"\boxed{A; B}",
    r"\boxed{A B}",
    r"\boxed{(A)(B)}",
    r"\boxed{A. B. C. D.}",
    r"\boxed{A: x, B: y}",
    r"\boxed{\frac{C}{D}}",
    r"\boxed{C: Aspirin}",
    r"\boxed{Ibuprofen (A)}",
    r"\boxed{A patient}",
    r"\boxed{not C}",
    r"\boxed{either A}",
    r"\boxed{the answer}",
    r"\boxed{42}",
    r"\boxed{none}",
    r"\boxed{C-reactive protein}",
    r"\boxed{C. difficile}",
    r"\boxed{B-cell}",
    r"\boxed{Ibuprofen or aspirin}",
    r"\fbox{C}",
    r"\boxed{" + "C: " + "x" * 2000 + "}",
]


@pytest.mark.parametrize("response", READ_AS_C)
def test_one_option_in_the_last_box(response):
    assert extract_answer(response, OPTIONS) == "C"


@pytest.mark.parametrize("response", READ_AS_NONE)
def test_no_single_option_in_the_last_box(response):
    assert extract_answer(response, OPTIONS) is None


def test_letters_are_enough_where_the_texts_are_unknown():
    assert extract_answer(r"\boxed{C}", "ABCD") == "C"
    assert extract_answer(r"\boxed{J}", "ABCDEFGHIJ") == "J"
    assert extract_answer(r"\boxed{E}", "ABCD") is None


@pytest.mark.parametrize(
    ("box", "letter"), [("yes", "A"), ("No", "B"), (r"\text{maybe}", "C"), ("Yes.", "A"), ("B", "B")]
)
def test_yes_no_maybe_are_answered_with_the_word(box, letter):
    assert extract_answer(rf"\boxed{{{box}}}", ("yes", "no", "maybe")) == letter


def test_yes_and_no_contradicting_their_letter_is_no_answer():
    assert extract_answer(r"\boxed{A: no}", ("yes", "no", "maybe")) is None
    assert extract_answer(r"\boxed{yes or no}", ("yes", "no", "maybe")) is None


def test_a_letter_is_a_letter_even_where_option_texts_are_letters():
    blood_groups = ("O", "A", "B", "AB")
    assert extract_answer(r"\boxed{A}", blood_groups) == "A"
    assert extract_answer(r"\boxed{AB}", blood_groups) == "D"
    assert extract_answer(r"\boxed{O}", blood_groups) == "A"


@given(before=st.text(), after=st.text(), letter=st.sampled_from("ABCD"))
def test_whatever_surrounds_the_last_box(before, after, letter):
    after = after.replace("\\boxed", "")
    assert extract_answer(f"{before}\\boxed{{{letter}}}{after}", OPTIONS) == letter


@given(st.text(alphabet="\\boxed{}ABCDabcd ,.()$:\n") | st.text())
def test_any_text_gives_an_option_or_none(text):
    assert extract_answer(text, OPTIONS) in (None, *"ABCD")


def test_reward_is_one_only_for_the_key():
    item = RewardItem(r"\boxed{C}", "C", OPTIONS)
    assert (score(item).reward, score(item).answer, score(item).reason) == (1.0, "C", "correct")
    wrong = score(RewardItem(r"\boxed{A}", "C", OPTIONS))
    assert (wrong.reward, wrong.answer, wrong.reason) == (0.0, "A", "wrong")
    none = score(RewardItem("The answer is C", "C", OPTIONS))
    assert (none.reward, none.answer, none.reason) == (0.0, None, "no_answer")


def test_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="strict.*boxed"):
        extract_answer("x", OPTIONS, "strict")
