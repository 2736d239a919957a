"""Pools of questions by how they were last answered: their shares, their order, and what a checkpoint keeps."""

from __future__ import annotations

from collections import Counter

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.config.limits import check_training_values
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.question_pools import EASY, HARD, NORMAL, QuestionPools
from alphamed_nemo.rewards.score import Score

SHARES = {EASY: 0.25, HARD: 0.25}
RIGHT, WRONG = Score(1.0, "A", "correct"), Score(0.0, "B", "wrong")


def questions(count: int) -> list[Question]:
    return [Question(f"q{i:03}", "test", f"stem {i}", ("yes", "no"), "A") for i in range(count)]


def ids(taken: list[Question]) -> list[str]:
    return [question.id for question in taken]


def answered(question: Question) -> Group:
    """By the question's number: one of four is always right, one never, the others now and then."""
    kind = int(question.id[1:]) % 4
    scores = [RIGHT, RIGHT] if kind == 0 else [WRONG, WRONG] if kind == 1 else [RIGHT, WRONG]
    return Group(question, [], scores, [score.reward for score in scores])


def ask(pools: QuestionPools, steps: int, count: int = 8) -> list[list[str]]:
    batches = []
    for _ in range(steps):
        taken = pools.take(count)
        pools.judge([answered(question) for question in taken])
        batches.append(ids(taken))
    return batches


def test_every_question_is_asked_before_any_comes_back_but_for_the_shares_of_easy_and_hard():
    pools = QuestionPools(questions(40), 1, {EASY: 0.0, HARD: 0.0})
    assert sorted(name for batch in ask(pools, 5) for name in batch) == ids(questions(40))
    assert {pool: len(queue) for pool, queue in pools.pools.items()} == {EASY: 10, HARD: 10, NORMAL: 20}


def test_a_batch_has_its_shares_once_the_pools_are_filled():
    pools = QuestionPools(questions(40), 1, SHARES)
    ask(pools, 10)
    kinds = Counter(int(name[1:]) % 4 for name in ask(pools, 1)[0])
    assert kinds[0] == 2 and kinds[1] == 2 and kinds[2] + kinds[3] == 4


def test_what_stays_solved_is_asked_less_and_every_question_of_a_pool_as_often():
    pools = QuestionPools(questions(40), 1, {EASY: 0.125, HARD: 0.25})
    ask(pools, 10)
    counts = Counter(name for batch in ask(pools, 160) for name in batch)
    for kind, expected in ((0, 160 * 1 / 10), (1, 160 * 2 / 10), (2, 160 * 5 / 20), (3, 160 * 5 / 20)):
        of_kind = [counts[name] for name in ids(questions(40)) if int(name[1:]) % 4 == kind]
        assert max(of_kind) - min(of_kind) <= 1
        assert sum(of_kind) / 10 == pytest.approx(expected, abs=1)


def test_others_stand_in_for_a_pool_that_is_too_small():
    pools = QuestionPools(questions(8), 1, SHARES)
    for batch in ask(pools, 5):
        assert sorted(batch) == ids(questions(8))
    with pytest.raises(ValueError, match="grpo.questions_per_step: 9 questions are not there"):
        pools.take(9)


def test_the_order_follows_from_the_seed_and_the_answers_and_goes_on_after_a_restore():
    pools, same = (QuestionPools(questions(40), 3, SHARES) for _ in range(2))
    assert ask(pools, 7) == ask(same, 7)
    assert ask(QuestionPools(questions(40), 4, SHARES), 7) != ask(QuestionPools(questions(40), 3, SHARES), 7)
    resumed = QuestionPools(questions(40), 3, SHARES)
    resumed.restore(pools.state())
    assert resumed.state() == pools.state()
    assert ask(resumed, 9) == ask(pools, 9)


def test_questions_put_back_come_first_and_once():
    pools = QuestionPools(questions(40), 1, {EASY: 0.0, HARD: 0.0})
    taken = pools.take(8)
    pools.judge([answered(question) for question in taken])
    back = [question for question in taken if int(question.id[1:]) % 4 > 1][:2]
    pools.put_back(back)
    assert pools.state()["passes"] == 6 / 40
    assert sorted(name for queue in pools.pools.values() for name in queue) == ids(questions(40))
    assert set(ids(back)) <= set(ids(pools.take(2)))


def test_state_names_shares_of_all_questions():
    pools = QuestionPools(questions(8), 1, SHARES)
    ask(pools, 1)
    assert pools.state()["pools"] == {NORMAL: 0.5, HARD: 0.25, EASY: 0.25}
    assert pools.state()["passes"] == 1


def test_another_training_file_is_refused_by_question_or_read_as_far_as_it_goes():
    before = QuestionPools(questions(8), 1, SHARES)
    ask(before, 1)
    after = QuestionPools(questions(12)[4:], 1, SHARES)
    with pytest.raises(ValueError, match="4 questions that the training file lacks, .q00"):
        after.restore(before.state())
    after.restore(before.state(), drop_unknown=True)
    assert sorted(name for queue in after.pools.values() for name in queue) == ids(questions(12)[4:])
    assert list(after.pools[NORMAL])[-4:] == ids(questions(12)[8:])


def test_an_empty_training_set_and_shares_above_one_are_refused():
    with pytest.raises(ValueError, match="no question"):
        QuestionPools([], 1, SHARES)
    cfg = Config()
    cfg.grpo.pool_easy, cfg.grpo.pool_hard = 0.6, 0.5
    with pytest.raises(ValueError, match="grpo.pool_easy: found 0.6 with grpo.pool_hard=0.5"):
        check_training_values(cfg)
