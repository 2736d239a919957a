"""Changed questions: the key stays right, options that speak of others stay where they are, letters are followed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.data.prompts import format_prompt
from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.evaluation.grading import grade_set
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.robustness import CHANGES, NONE_OF_OTHERS, changed, compare_changed, refers_to_others

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


def question(number: int, options=OPTIONS, answer: str = "C") -> Question:
    return Question(f"q{number}", "set", f"Which drug is {number}?", options, answer)


@given(st.integers(2, 26), st.integers(0, 25), st.integers(0, 1000), st.sampled_from(["shuffled", "relabelled"]))
def test_every_option_moves_and_the_key_goes_with_its_text(count, key, seed, change):
    asked = question(1, tuple(f"drug {i}" for i in range(count)), LETTERS[key % count])
    done = changed(asked, change, seed)
    assert done.answer_text == asked.answer_text and sorted(done.options) == sorted(asked.options)
    assert all(now != before for now, before in zip(done.options, asked.options, strict=True))
    assert [asked.options[LETTERS.index(letter)] for letter in done.metadata["was"]] == list(done.options)
    shown = [text for _, text in done.shown]
    assert (shown == list(asked.options)) == (change == "relabelled")
    assert changed(asked, change, seed) == done and changed(asked, change, seed).metadata == done.metadata


def test_another_seed_and_another_question_have_other_orders():
    orders = {changed(question(i), "shuffled", seed).options for i in range(5) for seed in range(5)}
    assert len(orders) > 5


@given(st.integers(0, 500))
def test_one_wrong_option_becomes_none_of_the_others(seed):
    done = changed(question(1), "none_of_others", seed)
    assert (done.answer, done.answer_text) == ("C", "Ibuprofen")
    assert done.options.count(NONE_OF_OTHERS) == 1 and len(set(done.options) & set(OPTIONS)) == 3


@pytest.mark.parametrize(
    "option",
    [
        "All of the above",
        "all the above",
        "None of the above",
        "None of these",
        "Both A and B",
        "A and B",
        "A & C only",
        "a and c are correct",
        "Both (A) and (B)",
        "Either A or B",
        "Neither B nor C",
        "A, B and D",
        "Options A and C",
        "All options are correct",
        "Two of the above",
        "Any of the above",
        "Both of them",
        "All are true",
        "None",
        "Both",
        "Same as B",
        "The above drugs",
        "More than one of the above",
        "All except B",
        "Neither of the other options",
    ],
)
def test_options_that_speak_of_others_are_seen_and_their_questions_stay(option):
    assert refers_to_others(option)
    asked = question(1, (*OPTIONS[:3], option))
    assert all(changed(asked, change, 1) is asked for change in CHANGES)


@pytest.mark.parametrize(
    "option",
    [
        "Hepatitis A and B",
        "Vitamin A",
        "Vitamins A and D",
        "E. coli",
        "Amputation above the knee",
        "Both kidneys",
        "All four limbs",
        "Blood group AB",
        "A",
        "B cells and T cells",
        "Type A dissection",
        "None is seen on the film before contrast",
        "Cells that repel each other",
        "I and II",
        "IgA and IgE",
        "C5 and C6 roots",
    ],
)
def test_options_that_only_look_like_it_may_move(option):
    assert not refers_to_others(option)


def test_relabelled_options_keep_their_lines_in_the_prompt():
    done = changed(question(1), "relabelled", 3)
    lines = format_prompt(done, "tiny").splitlines()[1:]
    assert [line[2:] for line in lines] == list(OPTIONS)
    assert sorted(line[0] for line in lines) == list("ABCD") and [line[0] for line in lines] != list("ABCD")
    assert f"{done.answer}: Ibuprofen" in format_prompt(done, "alphamed")
    assert f"({done.answer}) Ibuprofen" in format_prompt(done, "alphamed_bracketed")
    assert f"{done.answer}. Ibuprofen" in format_prompt(done, "alphamed_headed")


def result(questions, letters) -> EvaluationResult:
    texts = {asked.id: [rf"\boxed{{{letter}}}"] for asked, letter in zip(questions, letters, strict=True)}
    return EvaluationResult("x", {"samples": 1, "protocol": "boxed"}, grade_set(questions, texts, "boxed"))


@pytest.mark.parametrize("change", ["shuffled", "relabelled"])
def test_who_reads_the_text_follows_it_and_who_reads_the_letter_the_letter(change):
    plain = [question(i) for i in range(40)] + [question(99, ("Aspirin", "Warfarin", "None of the above"), "A")]
    asked = [changed(one, change, 1) for one in plain]
    by_id = {one.id: one for one in asked}
    before = result(plain, "C" * 40 + "A")
    reads = result(asked, [one.answer for one in asked])
    done = compare_changed(before, reads, plain, by_id)
    assert (done.difference.value, done.unchanged, done.moved, done.by_letter, done.by_text) == (0, 1, 40, 0, 40)
    habit = result(asked, "C" * 40 + "A")
    done = compare_changed(before, habit, plain, by_id)
    assert (done.moved, done.by_letter, done.by_text) == (40, 40, 0)
    assert done.difference.value == pytest.approx(-40 / 41) and done.difference.high < -0.8
    silent = result(asked, "-" * 41)
    assert compare_changed(before, silent, plain, by_id).moved == 0
