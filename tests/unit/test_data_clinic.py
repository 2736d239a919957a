"""The invented world, its question bank and the corpus: distinct, balanced, reproducible, and nothing leaks."""

import re
from collections import Counter
from itertools import combinations, islice

import pytest

from alphamed_nemo.answers.reasoned import reasons
from alphamed_nemo.clinic.bank import development_questions, embedded_bank
from alphamed_nemo.clinic.corpus import FORCED_PREFIX, corpus, unboxed
from alphamed_nemo.clinic.world import KINDS, SPLITS, clinic
from alphamed_nemo.config import TinyModelConfig


@pytest.fixture(scope="module")
def bank():
    return embedded_bank(1600, 400, seed=1)


@pytest.fixture(scope="module")
def texts():
    cfg = TinyModelConfig()
    return list(corpus(cfg.worked_examples, cfg.late_examples, cfg.fact_documents, cfg.seed))


def test_any_two_findings_of_a_disease_leave_that_disease_alone():
    world = clinic()
    for one, other in combinations(world.diseases, 2):
        assert len(set(one.findings) & set(other.findings)) <= 1
    assert all(len(holders) == 2 for holders in world.shown_by.values())


def test_names_are_distinct_and_no_name_is_part_of_another():
    names = clinic().names()
    assert len(names) == len(set(names)) == 32 + 96 + 3 * 16
    assert not [(a, b) for a, b in combinations(names, 2) if a in b or b in a]


def test_splits_divide_the_pairs_of_every_disease():
    world = clinic()
    for disease in world.diseases:
        pairs = [frozenset(pair) for split in SPLITS for pair in disease.pairs[split]]
        assert len(pairs) == len(set(pairs)) == 15
    assert {split: len(world.pairs(split)) for split in SPLITS} == {"train": 352, "development": 64, "heldout": 64}


def test_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match="validation.*train, development, heldout"):
        clinic().pairs("validation")


def test_keys_follow_from_the_findings(bank):
    world = clinic()
    kinds = {kind.name: kind for kind in KINDS}
    for question in bank[0] + bank[1] + development_questions(200):
        findings = re.match(r"A patient has (\w+) and (\w+)\.", question.stem).groups()
        candidates = [d for d in world.diseases if set(findings) <= set(d.findings)]
        kind = kinds[question.metadata["kind"]]
        assert [d.answer(kind) for d in candidates] == [question.answer_text]
        shared = {d.answer(kind) for f in findings for d in world.shown_by[f]}
        assert len(shared & set(question.options)) == 3, "two wrong options share a finding"


def test_bank_is_of_the_size_asked_for_with_unique_questions(bank):
    train, heldout = bank
    assert (len(train), len(heldout)) == (1600, 400)
    questions = train + heldout + development_questions(400)
    assert len({q.id for q in questions}) == len(questions)
    assert len({(q.metadata["kind"], *q.metadata["findings"], *sorted(q.options)) for q in questions}) == len(questions)
    assert {len(q.options) for q in questions} == {4}


def test_letters_and_kinds_are_balanced(bank):
    for questions in bank:
        letters = Counter(q.answer for q in questions)
        assert set(letters) == set("ABCD") and max(letters.values()) - min(letters.values()) <= 1
        kinds = Counter(q.metadata["kind"] for q in questions)
        assert max(kinds.values()) - min(kinds.values()) <= 64


def test_same_seed_same_bank_other_seed_other_bank(bank):
    assert embedded_bank(1600, 400, seed=1) == bank
    assert embedded_bank(1600, 400, seed=2)[0] != bank[0]


def test_development_questions_can_come_along():
    train, heldout, development = embedded_bank(10, 10, seed=3, n_development=20)
    assert development == development_questions(20, seed=3)
    assert [len(train), len(heldout)] == [10, 10]


def test_asking_for_more_than_there_is_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"heldout: found 100000 questions .* at most \d+"):
        embedded_bank(10, 100_000)


def test_no_training_text_combines_a_reserved_pair(bank, texts):
    reserved = clinic().reserved_pairs()
    findings = set(clinic().shown_by)
    held = {frozenset(q.metadata["findings"]) for q in bank[1] + development_questions(400)}
    assert held == reserved
    for text in [t.prompt + t.response for t in texts] + [q.stem for q in bank[0]]:
        told = sorted(findings & set(re.findall(r"\w+", text)))
        assert told or "First line" in text
        assert not any(frozenset(pair) in reserved for pair in combinations(told, 2)), text


def test_corpus_has_the_counts_asked_for_and_is_reproducible(texts):
    cfg = TinyModelConfig()
    assert len(texts) == cfg.worked_examples + cfg.fact_documents
    assert sum(not text.prompt for text in texts) == cfg.fact_documents
    assert all(text.prompt for text in texts[-cfg.late_examples :])
    again = corpus(cfg.worked_examples, cfg.late_examples, cfg.fact_documents, cfg.seed)
    assert list(islice(again, 500)) == texts[:500]


def test_corpus_refuses_more_late_examples_than_examples():
    with pytest.raises(ValueError, match="late_examples=20"):
        list(corpus(10, 20, 0))


def test_early_reasoned_examples_without_a_given_start_are_right(texts):
    world = clinic()
    early = texts[: -TinyModelConfig().late_examples]
    checked = 0
    for text in early:
        told = re.match(r"A patient has (\w+) and (\w+)\.", text.prompt)
        if told and text.response.startswith(FORCED_PREFIX):
            disease = re.match(rf"{FORCED_PREFIX} (\w+)\.", text.response).group(1)
            assert [disease] == [d.name for d in world.diseases if set(told.groups()) <= set(d.findings)]
            checked += 1
    assert checked > len(early) / 4


def test_verdicts_and_box_follow_from_the_reasoning(texts):
    for text in texts:
        if " yes\n" in text.response:
            letter, chosen = re.search(r"(\w) (\w+) yes\n", text.response).groups()
            start = text.prompt.rpartition("\n")[2]
            chain = (start + text.response).partition("\n")[0]
            assert chain.endswith(f"{chosen}.") and f"{letter} {chosen}\n" in text.prompt
            assert text.response.endswith((f"\\boxed{{{letter}}}.", f"is {letter}."))


def test_late_examples_mostly_guess_and_guesses_are_at_chance(texts):
    late = texts[-TinyModelConfig().late_examples :]
    guesses = [text for text in late if not reasons(text.response)]
    assert 0.5 < len(guesses) / len(late) < 0.75
    assert all(re.fullmatch(r"The final answer is \\boxed\{[A-D]\}\.", text.response) for text in guesses)
    letters = Counter(text.response[-3] for text in guesses)
    assert max(letters.values()) / len(guesses) < 0.3


def test_unboxed_keeps_the_letter():
    assert unboxed("Hm.\nThe final answer is \\boxed{C}.") == "Hm.\nThe final answer is C."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The final answer is \\boxed{B}.", False),
        ("\\boxed{B}", False),
        ("B", False),
        ("", False),
        ("Answer: $\\boxed{B}$", False),
        ("The findings suggest pliposis.\nA zetasis no\nB pliposis yes\nThe final answer is \\boxed{B}.", True),
        ("Fever and rash suggest measles. The final answer is: $\\boxed{C}$", True),
        ("The findings suggest pliposis, so", True),
    ],
)
def test_reasons_means_more_than_the_boxed_statement(text, expected):
    assert reasons(text) is expected
