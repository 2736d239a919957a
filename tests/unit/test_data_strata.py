"""Draws that keep the mixture of data sets and levels, and questions kept for validation."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from alphamed_nemo.data.dedup import DedupSettings
from alphamed_nemo.data.holdout import keep_for_validation
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.strata import proportional, stratified

WORDS = ("scurvy", "pellagra", "rickets", "beriberi", "gout", "mumps", "measles", "tetanus", "rabies", "cholera")


def question(number: int, dataset: str = "medqa", level: int | None = None) -> Question:
    stem = " ".join(WORDS[int(digit)] for digit in f"{number:06}") + f" in case {number}"
    return Question(f"{dataset}-{number}", dataset, stem, ("yes", "no"), "A", level=level)


def test_a_draw_keeps_the_mixture_and_the_order_whatever_the_order_of_the_file():
    questions = [question(n, "medqa", 1 + n % 3) for n in range(60)] + [question(n, "medmcqa", 2) for n in range(40)]
    drawn = stratified(questions, 20, seed=1)
    assert Counter((q.dataset, q.level) for q in drawn) == {
        ("medqa", 1): 4,
        ("medqa", 2): 4,
        ("medqa", 3): 4,
        ("medmcqa", 2): 8,
    }
    assert drawn == [q for q in questions if q in drawn]
    assert set(stratified(questions[::-1], 20, seed=1)) == set(drawn) != set(stratified(questions, 20, seed=2))


def test_a_larger_draw_of_one_stratum_holds_the_smaller():
    questions = [question(n) for n in range(50)]
    assert set(stratified(questions, 10, seed=3)) < set(stratified(questions, 30, seed=3))


@pytest.mark.parametrize("size", [0, 5, 9])
def test_a_draw_of_no_fewer_is_the_whole(size):
    questions = [question(n) for n in range(5)]
    assert stratified(questions, size, seed=1) == questions


@pytest.mark.parametrize("size", range(1, 18))
def test_shares_sum_up_and_are_within_one_of_the_exact_ones(size):
    counts = {"a": 3, "b": 7, "c": 1, "d": 6}
    shares = proportional(counts, size)
    assert sum(shares.values()) == size
    assert all(abs(shares[name] - size * count / 17) < 1 for name, count in counts.items())


def test_like_questions_are_on_one_side_and_sets_keep_their_shares(caplog: pytest.LogCaptureFixture):
    questions = [question(n) for n in range(80)] + [question(n + 500, "medmcqa") for n in range(40)]
    twins = [
        Question(f"twin-{n}", "medmcqa", questions[n].stem, ("yes", "no"), "A") for n in range(80)
    ]  # of the other set's questions
    with caplog.at_level(logging.INFO):
        train, validation = keep_for_validation([*questions, *twins], 30, 1, DedupSettings())
    assert Counter(q.dataset for q in validation) == {"medqa": 12, "medmcqa": 18}
    assert not {q.stem for q in train} & {q.stem for q in validation}
    assert len(train) < 170  # the twins of what was drawn are gone
    assert f"30 questions kept for validation; {170 - len(train)} like them removed from training" in caplog.messages


def test_some_questions_are_left_to_train_on():
    with pytest.raises(ValueError, match=r"^data.validation_questions: found 5 of 5 questions; leave some"):
        keep_for_validation([question(n) for n in range(5)], 5, 1, DedupSettings())
