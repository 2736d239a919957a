import pytest

from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.question_stream import QuestionStream


def questions(count: int, level: int | None = None) -> list[Question]:
    return [
        Question(f"q{i}", "test", f"stem {i}", ("yes", "no"), "A", level=level if level is None else 1 + i % level)
        for i in range(count)
    ]


def ids(taken: list[Question]) -> list[str]:
    return [question.id for question in taken]


def test_each_pass_asks_every_question_once_in_a_new_order():
    stream = QuestionStream(questions(20), seed=1)
    first, second = ids(stream.take(20)), ids(stream.take(20))
    assert sorted(first) == sorted(second) == sorted(f"q{i}" for i in range(20))
    assert first != second


def test_order_depends_on_the_seed_alone():
    same = [ids(QuestionStream(questions(20), seed=3).take(50)) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != ids(QuestionStream(questions(20), seed=4).take(50))


def test_resumed_stream_goes_on_where_the_saved_one_stood():
    stream = QuestionStream(questions(7), seed=1)
    stream.take(10)
    state = stream.state()
    expected = ids(stream.take(30))
    resumed = QuestionStream(questions(7), seed=1)
    resumed.restore(state)
    assert ids(resumed.take(30)) == expected


def test_passes_count_what_was_asked_and_not_put_back():
    stream = QuestionStream(questions(8), seed=1)
    assert stream.passes == 0
    taken = stream.take(4)
    assert stream.passes == 0.5
    stream.put_back(taken[2:])
    assert stream.passes == 0.25 == stream.state()["passes"]
    stream.take(14)
    assert stream.passes == 2


def test_questions_put_back_come_first_and_in_order():
    stream = QuestionStream(questions(9), seed=1)
    taken = stream.take(5)
    stream.put_back(taken[2:])
    assert ids(stream.take(3)) == ids(taken[2:])


def test_state_of_another_training_file_is_refused_by_question():
    with pytest.raises(ValueError, match="'gone'"):
        QuestionStream(questions(3), seed=1).restore({"epoch": 0, "pending": ["gone"]})


def test_easy_first_goes_up_the_levels():
    levels = [question.level for question in QuestionStream(questions(30, level=6), 1, "easy_first").take(30)]
    assert levels == sorted(levels)


def test_curriculum_without_levels_is_refused():
    with pytest.raises(ValueError, match="label_difficulty"):
        QuestionStream(questions(3), 1, "easy_first")


def test_empty_training_set_is_refused():
    with pytest.raises(ValueError, match="no question"):
        QuestionStream([], 1)


def test_a_training_set_that_may_be_another_one_drops_what_is_gone_and_brings_the_rest_with_the_next_pass() -> None:
    stream = QuestionStream(questions(3), seed=1)
    stream.restore({"epoch": 4, "pending": ["gone", *list(stream.questions)[:1], "lost"]}, drop_unknown=True)
    first, *following = (question.id for question in stream.take(4))
    assert first == next(iter(stream.questions))
    assert sorted(following) == sorted(stream.questions) and stream.epoch == 5
