"""The medical bank: its form, that nothing but medicine answers it, and that its two files share no question.

Each way of answering without knowing is applied to a whole file. Its score is compared with that of a guess on the same
questions, ties counted as a guess among the tied options, by a normal approximation: |z| < 2.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from alphamed_nemo.data.dedup import DedupSettings, decontaminate, deduplicate
from alphamed_nemo.data.medical_bank import FOLDER, SPLITS, medical_bank
from alphamed_nemo.data.question import LETTERS, Question, repeated_texts

Z = 2.0
WORD = re.compile(r"\w+")

# What a question without its medicine is answered by: the options with the highest value are chosen.
Cue = Callable[[Question, str], float]


def words(text: str) -> set[str]:
    """Words of a text that carry meaning: short ones (of, the, is) are in every option."""
    return {word for word in WORD.findall(text.casefold()) if len(word) > 3 or word.isdigit()}


def overlap(text: str, option: str) -> float:
    """Share of the option's words that the text has too."""
    found = words(option)
    return len(found & words(text)) / len(found) if found else 0.0


CUES: dict[str, Cue] = {
    "longest option": lambda question, option: len(option),
    "shortest option": lambda question, option: -len(option),
    "most words": lambda question, option: len(option.split()),
    "overlap with the stem": lambda question, option: overlap(question.stem, option),
    "overlap with the context": lambda question, option: overlap(question.context, option),
}


def z_of(questions: list[Question], cue: Cue) -> float:
    """Standard deviations between the cue's expected score and a guess's, over questions it prefers options of."""
    difference = variance = 0.0
    for question in questions:
        values = [cue(question, option) for option in question.options]
        best = [value == max(values) for value in values]
        tied, count = sum(best), len(values)
        score = best[question.letters.index(question.answer)] / tied
        difference += score - 1 / count
        variance += 1 / (tied * count) - 1 / count**2  # of a score of 1/tied with probability tied/count
    return difference / math.sqrt(variance) if variance > 1e-12 else 0.0


def z_of_letter(questions: list[Question], letter: str) -> float:
    """The same for always answering with one letter, over the questions that have it."""
    shares = [
        (question.answer == letter, 1 / len(question.options)) for question in questions if letter in question.letters
    ]
    variance = sum(share * (1 - share) for _, share in shares)
    return sum(hit - share for hit, share in shares) / math.sqrt(variance)


@pytest.fixture(scope="module", params=SPLITS)
def split(request: pytest.FixtureRequest) -> list[Question]:
    return medical_bank()[SPLITS.index(request.param)]


def test_the_files_are_there() -> None:
    assert [(FOLDER / f"{split}.jsonl").is_file() for split in SPLITS] == [True, True]


def test_every_question_has_the_form_of_a_published_one(split: list[Question]) -> None:
    assert split
    for question in split:
        assert question.dataset == "medical_bank" and question.id.startswith("medical_bank-")
        assert len(question.options) >= 2 and not repeated_texts(question.options), question.id
        for text in (question.stem, question.context, *question.options):
            assert text == text.strip() and "\ufffd" not in text and "  " not in text, question.id
        assert not any(re.match(r"\(?[A-Z][).:]\s", option) for option in question.options), question.id


def test_ids_are_unique_over_both_files() -> None:
    ids = Counter(question.id for questions in medical_bank() for question in questions)
    assert [id for id, count in ids.items() if count > 1] == []


def test_keys_are_balanced_over_the_letters(split: list[Question]) -> None:
    """Each letter as often as a fair draw would give it, in the questions that have it."""
    longest = max(len(question.options) for question in split)
    found = {letter: z_of_letter(split, letter) for letter in LETTERS[:longest]}
    assert {letter: z for letter, z in found.items() if abs(z) >= Z} == {}


@pytest.mark.parametrize("name", list(CUES))
def test_no_cue_answers_better_or_worse_than_a_guess(split: list[Question], name: str) -> None:
    assert abs(z_of(split, CUES[name])) < Z


@pytest.mark.parametrize("position", ["first", "last", "middle"])
def test_no_position_answers_better_or_worse_than_a_guess(split: list[Question], position: str) -> None:
    def at(question: Question) -> set[int]:
        last = len(question.options) - 1
        return {"first": {0}, "last": {last}, "middle": set(range(1, last)) or {0}}[position]

    assert abs(z_of(split, lambda question, option: question.options.index(option) in at(question))) < Z


def test_no_question_of_one_file_is_in_the_other_in_any_form() -> None:
    train, heldout = medical_bank()
    removed = decontaminate(train, heldout, DedupSettings())[1] + decontaminate(heldout, train, DedupSettings())[1]
    assert [(item.id, item.rule, item.match) for item in removed] == []


def test_no_question_is_there_twice() -> None:
    removed = deduplicate([question for questions in medical_bank() for question in questions], DedupSettings())[1]
    assert [(item.id, item.rule, item.match) for item in removed] == []


def test_the_measure_finds_what_it_is_for() -> None:
    """A bank with a cue fails, one without passes, and ties say nothing."""
    options = ("short", "a much longer option", "middling", "medium one")
    biased = [Question(str(i), "d", "Which?", options, "B") for i in range(12)]
    assert z_of(biased, CUES["longest option"]) == pytest.approx((12 - 3) / math.sqrt(12 * 3 / 16))
    assert z_of(biased, CUES["shortest option"]) < -1.9 and z_of_letter(biased, "B") > 5
    fair = [replace(question, answer="ABCD"[i % 4]) for i, question in enumerate(biased)]
    assert z_of(fair, CUES["longest option"]) == z_of_letter(fair, "A") == 0
    assert z_of(biased, CUES["overlap with the context"]) == 0  # no context: every option is tied
    shared = [replace(question, stem="Is it a much longer one?") for question in biased]
    assert z_of(shared, CUES["overlap with the stem"]) > 5


def test_a_bank_without_its_files_is_an_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alphamed_nemo.data.medical_bank.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"train\.jsonl: no such question file"):
        medical_bank()
