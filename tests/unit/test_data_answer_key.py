"""Which option is correct: read where it can mean one thing only, over the whole file, and never guessed."""

from __future__ import annotations

import pytest

from alphamed_nemo.data.answer_key import Habit, habit_of, key_of, letter_of
from alphamed_nemo.data.cells import Options, Unusable

METALS = Options(("Iron", "Zinc", "Lead", "Gold"))
ALLELES = Options(("AA", "Aa", "aa"))
BLOOD = Options(("B", "A", "AB", "O"))


@pytest.mark.parametrize("given", ["B", "b", "(B)", "b)", "B.", " B ", "Zinc", "zinc ", "B. Zinc", "(b) zinc", ["B"]])
def test_a_letter_or_a_text_names_an_option(given: object) -> None:
    assert key_of(given, METALS) == "B"


@pytest.mark.parametrize(("given", "key"), [("AA", "A"), ("Aa", "B"), ("aa", "C"), ("a", "A"), ("B", "B")])
def test_case_that_tells_options_apart_is_kept(given: str, key: str) -> None:
    assert key_of(given, ALLELES) == key


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("E", METALS, "answer not among the options: found 'E', expected a letter from A to D, or the text of one"),
        ("Tin", METALS, "answer not among the options"),
        ("7", METALS, "answer not among the options"),
        ("A, B", METALS, "answer not among the options"),
        ("aA", ALLELES, "ambiguous answer: found .aA., which may mean A or B or C"),
        (["A", "B"], METALS, "more than one answer: A, B"),
        ("1", METALS, "ambiguous answer: found '1', which may mean A or B; write the letter"),
        (1, METALS, "ambiguous answer"),
        ("b", Options(("B", "A")), "ambiguous answer"),
        ("Iron", Options(("Iron", "Zinc", "Iron")), "ambiguous answer: found 'Iron', which may mean A or C"),
        ("A. Zinc", METALS, "letter and text of the answer disagree"),
        (True, Options(("yes", "no")), "unreadable answer: found true"),
        ({"letter": "A"}, METALS, "unreadable answer"),
    ],
)
def test_what_names_none_or_two_is_refused_with_what_is_accepted(given: object, options: Options, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        key_of(given, options)


@pytest.mark.parametrize("given", [None, "", float("nan"), []])
def test_no_answer_is_no_key(given: object) -> None:
    assert key_of(given, METALS) == ""


@pytest.mark.parametrize(
    ("given", "base", "keys"), [([1, 4, "2"], 1, "ADB"), (["0", 3.0, "1"], 0, "ADB"), (["4.0", "1.0"], 1, "DA")]
)
def test_a_file_that_counts_in_one_way_only_may_give_numbers(given: list, base: int, keys: str) -> None:
    habit = habit_of((answer, METALS) for answer in given)
    assert habit.base == base
    assert "".join(key_of(answer, METALS, habit=habit) for answer in given) == keys


def test_a_file_that_counts_in_two_ways_is_refused() -> None:
    habit = habit_of([(0, METALS), (4, METALS)])
    for given in (0, 1, 4):
        with pytest.raises(Unusable, match="counts from 0 in one row, from 1 in another"):
            key_of(given, METALS, habit=habit)


def test_numbers_that_name_texts_are_not_counted() -> None:
    digits = Options(("5", "1", "3"))
    with pytest.raises(Unusable, match="ambiguous answer: found '1', which may mean A or B"):
        key_of("1", digits)
    assert key_of("5", digits) == "A"  # no count reaches so far
    assert key_of("1", digits, answer_text="1") == "B"
    assert habit_of([(3, digits)]).base is None
    with pytest.raises(Unusable, match="not among the options"):
        key_of("2", Options(("10 %", "20 %")))


def test_numbered_options_are_named_by_their_numbers() -> None:
    assert key_of("1", Options(("Iron", "Zinc"), base=0)) == "B"
    assert key_of("1", Options(("Iron", "Zinc"), base=1)) == "A"
    with pytest.raises(Unusable, match="ambiguous"):
        key_of("2", Options(("2", "4"), base=1))


def test_a_capital_letter_is_a_letter_unless_the_file_gives_texts() -> None:
    """Blood groups: the documented form wins, and a file that never gives letters is not taken to start with one."""
    assert key_of("B", BLOOD) == "B"
    assert key_of("B", BLOOD, answer_text="A") == "B"
    texts = habit_of([("Zinc", METALS), ("B", BLOOD)])
    assert texts.by_text
    with pytest.raises(Unusable, match="ambiguous answer: found 'B', which may mean A or B"):
        key_of("B", BLOOD, habit=texts)
    assert key_of("B", BLOOD, answer_text="B", habit=texts) == "A"
    assert habit_of([("Zinc", METALS), ("B", METALS)]) == Habit()


def test_letter_and_text_must_agree() -> None:
    assert key_of("B", METALS, "Zinc") == key_of(None, METALS, "Zinc") == key_of(1, METALS, "Zinc") == "B"
    with pytest.raises(Unusable, match="letter and text of the answer disagree: B and Iron"):
        key_of("B", METALS, "Iron")


def test_a_text_of_two_options_names_none() -> None:
    with pytest.raises(Unusable, match="ambiguous answer: found 'Iron', which is the text of A and C"):
        letter_of("Iron", ("Iron", "Zinc", "Iron"))
    with pytest.raises(Unusable, match="text of A and B"):
        letter_of("IRON", ("Iron", "iron"))
    assert letter_of("iron", ("Iron", "iron")) == "B"
