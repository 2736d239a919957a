"""Levels, subsets and question files."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import LabelConfig
from alphamed_nemo.data.difficulty import (
    are_labelled,
    describe,
    expected_effective,
    histogram,
    level_of,
    with_levels,
)
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.subsets import balanced_subset, choose, draw_subset, mixture


def labelled(counts):
    """Questions with `counts[i]` of level i + 1."""
    return [
        Question(f"L{level}-{i}", "set", "stem", ("x", "y"), "A", level=level)
        for level, count in enumerate(counts, start=1)
        for i in range(count)
    ]


@given(samples=st.integers(1, 40), data=st.data())
def test_levels_run_from_one_for_always_right_to_k_plus_one(samples, data):
    correct = data.draw(st.integers(0, samples))
    assert level_of(samples, samples) == 1 and level_of(0, samples) == samples + 1
    assert level_of(correct, samples) + correct == samples + 1


@pytest.mark.parametrize(("correct", "samples"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(correct, samples):
    with pytest.raises(ValueError, match=f"{correct} correct of {samples}"):
        level_of(correct, samples)


def test_with_levels_labels_every_question_and_keeps_the_counts():
    questions = [replace(q, level=None) for q in labelled([2])]
    found = with_levels(questions, {"L1-0": 5, "L1-1": 1}, samples=5)
    assert [q.level for q in found] == [1, 5]
    assert found[1].metadata == {"correct": 1, "samples": 5}
    with pytest.raises(ValueError, match="L1-1 was not sampled"):
        with_levels(questions, {"L1-0": 5}, samples=5)


def test_histogram_shows_empty_levels_and_refuses_unlabelled_questions():
    assert histogram(labelled([1, 0, 2]), 6) == {1: 1, 2: 0, 3: 2, 4: 0, 5: 0, 6: 0}
    assert describe(histogram(labelled([1, 0, 2]))) == "L1 1, L2 0, L3 2"
    with pytest.raises(ValueError, match="no difficulty level"):
        histogram([replace(labelled([1])[0], level=None)])


def test_balanced_subset_has_the_same_number_of_every_level():
    questions = labelled([30, 40, 50, 60, 70, 80])
    subset = balanced_subset(questions, 20, seed=1)
    assert set(histogram(subset).values()) == {20}
    assert len({q.id for q in subset}) == 120
    assert subset == balanced_subset(questions, 20, seed=1) != balanced_subset(questions, 20, seed=2)
    assert [q.level for q in subset] != sorted(q.level for q in subset), "shuffled"


def test_short_level_is_an_error_that_prints_what_there_is():
    with pytest.raises(ValueError, match=r"there are L1 3, L2 9, .*fill=neighbours"):
        balanced_subset(labelled([3, 9, 9, 9, 9, 9]), 5, seed=1)


def test_neighbours_fill_a_short_level_from_the_nearest_harder_one_first():
    subset = balanced_subset(labelled([9, 1, 9, 9, 9, 9]), 5, seed=1, fill="neighbours")
    assert histogram(subset) == {1: 5, 2: 1, 3: 9, 4: 5, 5: 5, 6: 5}
    further = balanced_subset(labelled([9, 0, 5, 9, 5, 5]), 5, seed=1, fill="neighbours")
    assert histogram(further) == {1: 9, 2: 0, 3: 5, 4: 6, 5: 5, 6: 5}


@given(counts=st.lists(st.integers(0, 12), min_size=6, max_size=6), per_level=st.integers(1, 8), seed=st.integers(0, 3))
def test_neighbours_always_give_the_whole_number_or_an_error(counts, per_level, seed):
    questions = labelled(counts)
    if sum(counts) < 6 * per_level:
        with pytest.raises(ValueError, match="only"):
            balanced_subset(questions, per_level, seed, fill="neighbours")
        return
    subset = balanced_subset(questions, per_level, seed, fill="neighbours")
    drawn = Counter(q.level for q in subset)
    assert len({q.id for q in subset}) == 6 * per_level
    assert all(drawn[level] >= min(per_level, count) for level, count in enumerate(counts, start=1))


def test_per_level_zero_takes_as_many_as_the_smallest_non_empty_level():
    assert histogram(balanced_subset(labelled([4, 0, 9, 7, 8, 9]), 0, seed=1), 6) == {
        1: 4,
        2: 0,
        3: 4,
        4: 4,
        5: 4,
        6: 4,
    }


def test_unknown_fill_and_levels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="label.fill='pad'.*error, neighbours"):
        balanced_subset(labelled([9] * 6), 2, seed=1, fill="pad")
    with pytest.raises(ValueError, match="levels up to L6, expected at most L4"):
        balanced_subset(labelled([9] * 6), 2, seed=1, levels=4)


def test_cumulative_subsets_are_nested():
    questions = labelled([9] * 6)
    ids = [{q.id for q in balanced_subset(questions, 4, seed=1, up_to=n)} for n in range(1, 7)]
    assert [len(found) for found in ids] == [4, 8, 12, 16, 20, 24]
    assert all(a < b for a, b in zip(ids, ids[1:], strict=False))
    with pytest.raises(ValueError, match="up_to=7"):
        balanced_subset(questions, 4, seed=1, up_to=7)


def test_a_band_of_levels_is_drawn_and_filled_from_itself_alone():
    drawn = balanced_subset(labelled([9, 9, 2, 9, 9, 9]), 4, seed=1, fill="neighbours", first=2, up_to=4)
    assert histogram(drawn, 6) == {1: 0, 2: 4, 3: 2, 4: 6, 5: 0, 6: 0}
    with pytest.raises(ValueError, match="label.first=4 is above the hardest level, L3"):
        balanced_subset(labelled([9] * 6), 4, seed=1, first=4, up_to=3)
    chosen = draw_subset(labelled([9] * 6), LabelConfig(per_level=4, first=5), seed=1)
    assert {question.level for question in chosen} == {5, 6}


def test_as_many_as_the_smallest_level_holds_up_to_a_level():
    drawn = balanced_subset(labelled([9, 5, 7, 1, 0, 3]), 0, seed=1, up_to=3)
    assert Counter(question.level for question in drawn) == {1: 5, 2: 5, 3: 5}


def test_mixture_draws_the_counts_asked_for():
    sources = {"one": labelled([20]), "two": [replace(q, id=f"other-{q.id}", dataset="two") for q in labelled([20])]}
    mixed = mixture(sources, {"one": 5, "two": 7}, seed=1)
    assert Counter(q.dataset for q in mixed) == {"set": 5, "two": 7}
    assert mixed == mixture(sources, {"one": 5, "two": 7}, seed=1)
    for counts, message in (
        ({"three": 1}, "no source 'three'"),
        ({"one": 21}, "21 questions of one"),
        ({"one": -1}, "-1"),
    ):
        with pytest.raises(ValueError, match=message):
            mixture(sources, counts, seed=1)
    with pytest.raises(ValueError, match="not unique"):
        mixture({"one": sources["one"], "same": sources["one"]}, {"one": 20, "same": 20}, seed=1)


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.parquet"])
def test_question_files_round_trip(tmp_path, name):
    questions = embedded_bank(20, 0)[0]
    questions[3] = replace(questions[3], level=4, context="Zwölf\u2028Jahre", metadata={"a": [1, {"b": None}]})
    write_questions(questions, tmp_path / "new" / name)
    found = read_questions(tmp_path / "new" / name)
    assert found == questions and [q.metadata for q in found] == [q.metadata for q in questions]
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "row 1: not JSON"),
        ("[1]", "row 1: found list"),
        ('{"id": "a"}', "row 1: missing stem, options, answer"),
        ('{"id": "a", "stem": "s", "options": ["x", "y"], "answer": "A", "key": 1}', "unknown key"),
        ('{"id": "a", "stem": "s", "options": ["x", "y"], "answer": "C"}', "row 1: question a: answer 'C'"),
        ('{"id": "a", "stem": "s", "options": ["x", "y"], "answer": "A"}\n' * 2, "row 2: id 'a' occurs twice"),
    ],
)
def test_bad_rows_are_named(tmp_path, content, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_questions(path)
    assert str(path) in str(error.value)


def test_missing_file_and_unknown_suffix_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such question file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="ends in .jsonl or .parquet"):
        write_questions([], tmp_path / "questions.csv")


def two_sets(one, two):
    return labelled(one) + [replace(q, id=f"other-{q.id}", dataset="two") for q in labelled(two)]


def test_a_subset_by_dataset_is_balanced_in_each():
    questions = two_sets([9] * 6, [5] * 6)
    subset = draw_subset(questions, LabelConfig(subset="by_dataset", per_level=4), seed=1)
    assert Counter((q.dataset, q.level) for q in subset) == {
        (name, n): 4 for name in ("set", "two") for n in range(1, 7)
    }
    alone = draw_subset(questions[:54], LabelConfig(per_level=4), seed=1)
    assert {q.id for q in subset if q.dataset == "set"} == {q.id for q in alone}  # the study before is a part of it
    easy = draw_subset(questions, LabelConfig(subset="by_dataset", per_level=4, up_to=2), seed=1)
    assert Counter((q.dataset, q.level) for q in easy) == {(name, n): 4 for name in ("set", "two") for n in (1, 2)}
    with pytest.raises(ValueError, match="two: label.per_level.*L6 7 asked for, but there are L1 5"):
        draw_subset(questions, LabelConfig(subset="by_dataset", per_level=7), seed=1)


def test_other_subsets_are_a_mixture_or_all_of_them():
    questions = two_sets([9] * 6, [5] * 6)
    mixed = draw_subset(questions, LabelConfig(subset="mixture", mixture={"set": 10, "two": 3}), seed=1)
    assert Counter(q.dataset for q in mixed) == {"set": 10, "two": 3}
    assert draw_subset(questions, LabelConfig(subset="all"), seed=1) == questions
    with pytest.raises(ValueError, match="label.mixture is empty"):
        draw_subset(questions, LabelConfig(subset="mixture"), seed=1)
    with pytest.raises(ValueError, match="label.subset='half'.*balanced, by_dataset, mixture, all"):
        draw_subset(questions, LabelConfig(subset="half"), seed=1)


def test_choosing_questions_to_label_keeps_their_order_and_extends():
    questions = two_sets([30], [8])
    assert choose(questions, [], 0, seed=1) == questions
    few, more = choose(questions, [], 5, seed=1), choose(questions, [], 10, seed=1)
    assert Counter(q.dataset for q in few) == {"set": 5, "two": 5}
    assert Counter(q.dataset for q in more) == {"set": 10, "two": 8}
    assert [q for q in more if q in few] == few and [q for q in questions if q in more] == more
    assert {q.dataset for q in choose(questions, ["two"], 0, seed=1)} == {"two"}
    with pytest.raises(ValueError, match="no questions of three; there are set, two"):
        choose(questions, ["three"], 0, seed=1)


@pytest.mark.parametrize(("correct", "samples", "group"), [(0, 5, 8), (3, 5, 8), (5, 5, 16), (1, 1, 2), (20, 40, 64)])
def test_expected_effective_share_is_the_integral_over_the_posterior(correct, samples, group):
    grid = [(i + 0.5) / 20_000 for i in range(20_000)]
    weight = [p**correct * (1 - p) ** (samples - correct) for p in grid]
    effective = sum(w * (1 - p**group - (1 - p) ** group) for w, p in zip(weight, grid, strict=True)) / sum(weight)
    assert expected_effective(correct, samples, group) == pytest.approx(effective, abs=1e-6)


def test_questions_count_as_labelled_by_as_many_samples_only():
    questions = with_levels([replace(q, level=None) for q in labelled([2])], {"L1-0": 5, "L1-1": 1}, samples=5)
    assert are_labelled(questions, 5) and not are_labelled(questions, 8)
    assert not are_labelled([*questions, labelled([1])[0]], 5)
