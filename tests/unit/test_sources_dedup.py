"""Duplicates and leaks: what matches, what only looks alike, and that MinHash misses nothing that counts."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphamed_nemo.data.comparable import jaccard, ngrams, normalise
from alphamed_nemo.data.dedup import DedupSettings, decontaminate, deduplicate
from alphamed_nemo.data.question import Question

SETTINGS = DedupSettings()
WORDS = [f"word{i}" for i in range(3000)]


def ask(id, stem, options=("Iron", "Zinc", "Lead", "Gold"), answer="A", dataset="a", context=""):
    return Question(id, dataset, stem, options, answer, context)


def prose(seed, words):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def rules(removed):
    return [(item.id, item.rule, item.match) for item in removed]


def test_same_question_in_another_order_case_and_punctuation_is_exact():
    first = ask("1", "Which metal is in haemoglobin?")
    second = ask("2", "which  metal is in HAEMOGLOBIN ?", ("gold", "Lead.", "zinc", "iron"), "D", dataset="b")
    kept, removed = deduplicate([first, second], SETTINGS)
    assert kept == [first] and rules(removed) == [("2", "exact", "1")]
    assert (removed[0].dataset, removed[0].match_dataset, removed[0].similarity) == ("b", "a", 1.0)


def test_same_stem_and_answer_with_other_distractors_is_a_duplicate():
    second = ask("2", "Which metal?", ("Tin", "Iron"), "B")
    assert rules(deduplicate([ask("1", "Which metal?"), second], SETTINGS)[1]) == [("2", "same stem and answer", "1")]


def test_same_stem_with_another_answer_is_another_question():
    questions = [ask("1", "Which is true?"), ask("2", "Which is true?", ("Tin", "Copper"), "B")]
    assert deduplicate(questions, SETTINGS) == (questions, [])


def test_contradicting_keys_remove_all_of_them():
    questions = [
        ask("1", "Which metal?"),
        ask("2", "Which metal?", answer="B"),
        ask("3", "Which metal?"),
        ask("4", "Why?"),
    ]
    kept, removed = deduplicate(questions, SETTINGS)
    assert [question.id for question in kept] == ["4"]
    assert [(item.id, item.rule) for item in removed] == [(id, "same question, different keys") for id in "123"]


def test_a_changed_word_in_a_long_question_is_near_only_with_the_same_answer():
    stem = prose(1, 60)
    turned = stem.replace(stem.split()[30], "except")
    assert rules(deduplicate([ask("1", stem), ask("2", turned)], SETTINGS)[1]) == [("2", "near", "1")]
    assert deduplicate([ask("1", stem), ask("2", turned, answer="C")], SETTINGS)[1] == []


@pytest.mark.parametrize("first, second", [("Na+ rises", "Na- rises"), ("GFR ↑", "GFR ↓"), ("p < 0.05", "p > 0.05")])
def test_signs_are_part_of_a_question(first, second):
    assert deduplicate([ask("1", first), ask("2", second, answer="B")], SETTINGS)[1] == []


@pytest.mark.parametrize(
    "first, second", [("BB × bb", "Bb × bb"), ("Bb × bb", "bb × bb"), ("AaBb × aabb", "AABB × aabb"), ("Tt", "tt")]
)
def test_crosses_that_differ_by_case_are_different_questions(first, second):
    """Other keys to the same options would otherwise contradict each other, and both would go."""
    questions = [
        ask("1", f"What are the offspring of {first}?"),
        ask("2", f"What are the offspring of {second}?", answer="B"),
    ]
    assert deduplicate(questions, SETTINGS) == (questions, [])
    assert decontaminate(questions[:1], questions[1:], SETTINGS)[1] == []


def test_case_that_tells_options_apart_is_compared():
    gametes = ("AB", "Ab", "aB", "ab")
    questions = [ask("1", "Which gamete?", gametes), ask("2", "Which gamete?", gametes, "B")]
    assert rules(deduplicate(questions, SETTINGS)[1]) == [
        (id, "same question, different keys", other) for id, other in ("12", "21")
    ]
    again = ask("2", "which GAMETE?", gametes[::-1], "D")
    assert rules(deduplicate([questions[0], again], SETTINGS)[1]) == [("2", "exact", "1")]


@pytest.mark.parametrize("word", ["haemoglobin", "type II", "5 mm", "10 cc"])
def test_capitals_of_style_make_no_other_question(word):
    pair = [ask("1", f"Which {word}?"), ask("2", f"Which {word}?".upper())]
    assert rules(deduplicate(pair, SETTINGS)[1]) == [("2", "exact", "1")]


def test_different_contexts_make_different_questions():
    questions = [ask(str(i), "What does the abstract show?", context=prose(i, 50)) for i in range(3)]
    assert deduplicate(questions, SETTINGS) == (questions, [])
    assert len(decontaminate(questions[:1], questions[1:], SETTINGS)[1]) == 0
    bare = replace(questions[1], context="", dataset="test")
    assert rules(decontaminate(questions[:1], [bare], SETTINGS)[1]) == [("0", "exact", "1")]


def test_a_leaked_vignette_is_found_whatever_is_asked_about_it():
    vignette = prose(5, 80)
    test = ask("t", f"{vignette} What is the diagnosis?", dataset="test")
    leak = ask("1", f"{prose(6, 20)} {vignette} What is the next step?", ("Biopsy", "Rest"), "B")
    clean = ask("2", f"{prose(7, 80)} What is the diagnosis?")
    kept, removed = decontaminate([leak, clean], [test], SETTINGS)
    assert kept == [clean] and rules(removed) == [("1", "contained", "t")]
    assert 0.9 < removed[0].similarity < 1.0


def test_a_stock_phrase_is_no_leak():
    phrase = "Which of the following is the most likely diagnosis in this patient"
    train = ask("1", f"{prose(8, 80)} {phrase}?", ("Gout", "Lupus"))
    assert decontaminate([train], [ask("t", f"{phrase}?", dataset="test")], SETTINGS)[1] == []


def test_a_turned_round_training_question_still_leaks():
    stem = prose(9, 30)
    test = ask("t", stem, dataset="test")
    train = ask("1", stem.replace(stem.split()[-1], "except"), answer="C")
    assert rules(decontaminate([train], [test], SETTINGS)[1]) == [("1", "near", "t")]


def test_evaluation_sets_are_never_changed_and_order_is_kept():
    tests = [ask(f"t{i}", prose(i, 20)) for i in range(20)]
    train = [ask(f"x{i}", prose(100 + i, 20)) for i in range(20)]
    kept, removed = decontaminate(train[:10] + tests[:5] + train[10:], tests, SETTINGS)
    assert kept == train and [item.match for item in removed] == [f"t{i}" for i in range(5)]


def test_minhash_finds_what_comparing_every_pair_finds():
    """Pairs at every similarity around the threshold, against the brute-force answer."""
    source = random.Random(3)
    questions = []
    for group in range(150):
        words = source.choices(WORDS, k=40)
        for variant in range(2):
            changed = list(words)
            for place in source.sample(range(40), source.randint(0, 5) if variant else 0):
                changed[place] = source.choice(WORDS)
            questions.append(ask(f"{group}.{variant}", " ".join(changed), ("Iron", "Zinc")))

    def grams(question):
        return ngrams(normalise(f"{question.stem} iron zinc"), 3)

    expected = {
        f"{group}.1"
        for group in range(150)
        if jaccard(grams(questions[2 * group]), grams(questions[2 * group + 1])) >= SETTINGS.near_jaccard
    }
    assert 20 < len(expected) < 130
    assert {item.id for item in deduplicate(questions, SETTINGS)[1]} == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12), st.lists(st.sampled_from("abcdef"), min_size=1))
def test_ngrams_agree_with_sets_of_word_tuples(first, second):
    def tuples(words, n=3):
        return {tuple(words[i : i + n]) for i in range(max(len(words) - n, 0) + 1)}

    expected = len(tuples(first) & tuples(second)) / len(tuples(first) | tuples(second))
    assert jaccard(ngrams(" ".join(first), 3), ngrams(" ".join(second), 3)) == pytest.approx(expected)


def test_result_is_the_same_whatever_the_process(tmp_path):
    """Python hashes text differently in every process; signatures must not."""
    import subprocess
    import sys

    code = (
        "from alphamed_nemo.data.comparable import Comparable\nfrom alphamed_nemo.data.question import Question\n"
        "print(Comparable(Question('1', 'a', 'What is iron?', ('x', 'y'), 'A')).signature().hashvalues.tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1 and printed != {""}
