"""Answers given as an option's text: case tells options apart where nothing else does, and a shared text names none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.answers.options import AMBIGUOUS, Choices
from alphamed_nemo.answers.protocols import PROTOCOLS, extract_answer

CROSSES = ("BB × bb", "Bb × bb", "bb × bb")
ALLELES = ("AA", "Aa", "aa")
GAMETES = ("AB", "Ab", "aB", "ab")
TWICE = ("Aspirin", "Heparin", "Aspirin", "Zinc")


@pytest.mark.parametrize("options", [CROSSES, ALLELES, GAMETES])
@pytest.mark.parametrize(
    "shown", [r"\boxed{%s}", r"\boxed{%s.}", r"\boxed{\text{%s}}", r"\boxed{(%s)}", r"\boxed{ $%s$ }"]
)
def test_a_box_with_an_options_text_is_read_by_its_case(options: tuple[str, ...], shown: str) -> None:
    assert [extract_answer(shown % option, options) for option in options] == list("ABCD"[: len(options)])


@pytest.mark.parametrize("options", [CROSSES, ALLELES, GAMETES])
@pytest.mark.parametrize(
    "shown", ["The answer is %s.", "**Answer: %s**", "I weighed them.\n%s is the correct answer.", "%s"]
)
def test_a_sentence_with_an_options_text_is_read_by_its_case(options: tuple[str, ...], shown: str) -> None:
    assert [extract_answer(shown % option, options, "lenient") for option in options] == list("ABCD"[: len(options)])


@pytest.mark.parametrize("protocol", ["first_match", "last_match"])
def test_first_and_last_match_tell_by_case(protocol: str) -> None:
    assert [extract_answer(f"so {option} it would be", ALLELES, protocol) for option in ALLELES] == ["A", "B", "C"]


@pytest.mark.parametrize("shown", [r"\boxed{bB × bb}", r"\boxed{B: BB × bb}", r"\boxed{AA or Aa}"])
def test_a_text_in_no_options_case_names_none(shown: str) -> None:
    assert extract_answer(shown, CROSSES) is None


@pytest.mark.parametrize(
    ("shown", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{B: Aa}", "B"),
        (r"\boxed{(B) Aa}", "B"),
        (r"\boxed{Aa (B)}", "B"),
        (r"\boxed{B: aa}", None),  # the letter of one, the text of another
        (r"\boxed{(B) AA}", None),
        (r"\boxed{Aa (C)}", None),
        (r"\boxed{aA}", None),
        (r"\boxed{AA or Aa}", None),
    ],
)
def test_letter_and_text_that_differ_by_case_must_agree(shown: str, letter: str | None) -> None:
    assert extract_answer(shown, ALLELES) == letter


def test_two_texts_that_differ_by_case_are_two_answers() -> None:
    assert extract_answer("The answer is AA or Aa.", ALLELES, "lenient") is None


@pytest.mark.parametrize("shown", ["aspirin", "ASPIRIN", "Aspirin."])
def test_case_is_ignored_where_it_tells_nothing(shown: str) -> None:
    assert extract_answer(rf"\boxed{{{shown}}}", ("Aspirin", "Heparin")) == "A"
    assert extract_answer(f"The answer is {shown}", ("Aspirin", "Heparin"), "lenient") == "A"


@pytest.mark.parametrize("options", [TWICE, TWICE[::-1], ("Aspirin", "aspirin", "Zinc"), ("yes", "no", "no")])
@pytest.mark.parametrize("protocol", ["boxed", "lenient"])
def test_a_text_of_two_options_is_never_the_last_of_them(options: tuple[str, ...], protocol: str) -> None:
    shared = "no" if "no" in options else "ASPIRIN"
    shown = rf"\boxed{{{shared}}}" if protocol == "boxed" else f"The answer is {shared}."
    assert extract_answer(shown, options, protocol) is None
    assert extract_answer("No, it does not.", ("yes", "no", "no"), "lenient") is None


@pytest.mark.parametrize("letter", ["A", "C"])
def test_the_letter_tells_which_of_two_equal_texts_is_meant(letter: str) -> None:
    for shown in (f"{letter}: Aspirin", f"({letter}) Aspirin", f"Aspirin ({letter})", letter):
        assert extract_answer(rf"\boxed{{{shown}}}", TWICE) == letter
    assert extract_answer(f"The answer is Aspirin ({letter}).", TWICE, "lenient") == letter
    assert extract_answer("The answer is heparin.", TWICE, "lenient") == "B"


def test_an_options_whole_text_comes_before_anothers_without_its_brackets() -> None:
    choices = Choices(("(Aspirin)", "Aspirin", "[Zinc]", "(Zinc)"))
    assert choices.letter_of("Aspirin") == "B" and choices.letter_of("(Aspirin)") == "A"
    assert choices.letter_of("Zinc") == AMBIGUOUS and choices.letter_of("[Zinc]") == "C"
    assert choices.letter_of("Gold") is None


@given(st.lists(st.text("AaBb", min_size=2, max_size=3), min_size=2, max_size=6, unique=True))
def test_every_option_is_found_by_its_own_text(options: list[str]) -> None:
    for letter, option in zip("ABCDEF", options, strict=False):
        assert extract_answer(rf"\boxed{{{option}}}", options) == letter


@given(
    st.lists(st.sampled_from(["Iron", "iron", "IRON", "Zinc", "zinc"]), min_size=2, max_size=5),
    st.sampled_from(["Iron", "iron", "IRON", "Zinc", "zinc", "iRON"]),
)
def test_a_text_names_the_one_option_that_it_fits_best(options: list[str], shown: str) -> None:
    """Against the definition: the one option with this text; else the one with it in another case; else none."""
    exact = [i for i, option in enumerate(options) if option == shown]
    alike = [i for i, option in enumerate(options) if option.lower() == shown.lower()]
    found = exact if exact else alike
    expected = "ABCDE"[found[0]] if len(found) == 1 else None
    assert extract_answer(rf"\boxed{{{shown}}}", options) == expected


def test_every_protocol_takes_options_that_case_tells_apart() -> None:
    for protocol in PROTOCOLS:
        assert extract_answer(r"So \boxed{C}. The answer is C", ALLELES, protocol) == "C"
