"""A final answer however a model states it, and no answer where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphamed_nemo.answers.protocols import extract_answer

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")
WORDS = ("yes", "no", "maybe")
TEN = (
    "Cystic fibrosis",
    "Type A personality",
    "Group B streptococcus",
    "Chronic kidney disease",
    "Factor V Leiden",
    "E. coli",
    "Vitamin D deficiency",
    "Influenza A",
    "Both A and B",
    "None of the above",
)
ROOT = Path(__file__).parents[2]


def documented(block: str) -> list[str]:
    """The responses that docs/grading.md lists under this name."""
    text = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8").split(f"```{block}\n")[1].split("\n```")[0]
    return [line.replace("⏎", "\n") for line in text.split("\n")]


def no_answers() -> list[dict]:
    path = Path(__file__).parent / "data" / "no_answer.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("response", documented("wordings") + documented("exceptions"))
def test_documented_wording(response):
    assert extract_answer(response, OPTIONS, "lenient") == "C"


@pytest.mark.parametrize("response", documented("not_stated"))
def test_documented_response_without_an_answer(response):
    assert extract_answer(response, OPTIONS, "lenient") is None


def test_there_are_enough_responses_without_an_answer():
    assert len({row["response"] for row in no_answers()}) >= 200


@pytest.mark.parametrize("row", no_answers(), ids=lambda row: row["group"])
def test_no_answer_is_no_answer(row):
    assert extract_answer(row["response"], row["options"], "lenient") is None
    assert extract_answer(row["response"], row["options"], "boxed") is None


@pytest.mark.parametrize(
    ("response", "options", "letter"),
    [
        ("The answer is type A personality.", TEN, "B"),
        ("The answer is E. coli.", TEN, "F"),
        ("Answer: F. E. coli", TEN, "F"),
        ("Answer: E", TEN, "E"),
        ("The answer is none of the above.", TEN, "J"),
        ("Both A and B", TEN, "I"),
        ("The answer is I.", TEN, "I"),
        ("G", TEN, "G"),
        ("The answer is (H) influenza A.", TEN, "H"),
        ("Yes", WORDS, "A"),
        ("No, there was no difference.", WORDS, "B"),
        ("**Maybe**", WORDS, "C"),
        ("The answer to the question is yes, because mortality fell.", WORDS, "A"),
        ('{"answer": "maybe"}', WORDS, "C"),
        ("<answer>no</answer>", WORDS, "B"),
        ("There was no effect in arm A.\n\nno", WORDS, "B"),
        ("The answer is B.", WORDS, "B"),
        ("The answer is 5 mg.", ("5 mg", "15 mg", "50 mg"), "A"),
        ("50 mg", ("5 mg", "15 mg", "50 mg"), "C"),
        ("The dose is 15 mg, so the answer is B.", ("5 mg", "15 mg", "50 mg"), "B"),
    ],
)
def test_options_that_hold_letters_words_and_numbers(response, options, letter):
    assert extract_answer(response, options, "lenient") == letter


NEUTRAL = [
    "A 45-year-old patient presents with pain.",
    "Vitamin C and hepatitis B are unrelated.",
    "I would like to look at each option in turn.",
    "Option A is wrong because it bleeds.",
    "The answer is not D.",
    "Aspirin inhibits COX irreversibly.",
    "Could it be B?",
    "If the answer is A, the platelets should be low.",
    "The T cells and the B cells are normal.",
    "Some clinicians might choose warfarin here.",
    "A careful history is needed.",
    "The serum C-peptide is low and the D-dimer is high.",
    "We need to find the drug that blocks the enzyme.",
    "Type A and type B reactions differ.",
    "It is either A or D at this point, so let us go on.",
]
STATED = [
    "The answer is {0}.",
    "The correct answer is ({0}).",
    "Therefore, the correct answer is **{0}. {1}**.",
    "Answer: {0}",
    "**Final answer:** {0}",
    '{{"answer_choice": "{0}"}}',
    "The final answer is: $\\boxed{{{0}}}$",
    "Option {0} is the correct answer.",
    "I would choose option {0}.",
    "{0}. {1}",
    "**{0}**",
    "({0})",
    "The answer is {1}.",
    "So the answer is {1} ({0}).",
    "{1}",
]
AFTER = ["", "", " This explains the pain.", "\n\nExplanation: the enzyme is blocked.", "\n\nI hope this helps!"]
TERMINAL = {"{0}. {1}", "**{0}**", "({0})", "{1}"}  # answers by standing last


@settings(max_examples=400, deadline=None)
@given(
    reasoning=st.lists(st.sampled_from(NEUTRAL), max_size=12),
    earlier=st.sampled_from(["", "At first I thought the answer is A. ", "The answer seems to be B. However, no. "]),
    letter=st.sampled_from("ABCD"),
    stated=st.sampled_from(STATED),
    after=st.sampled_from(AFTER),
)
def test_the_statement_at_the_end_of_any_reasoning_wins(reasoning, earlier, letter, stated, after):
    said = stated.format(letter, OPTIONS["ABCD".index(letter)])
    response = " ".join(reasoning) + "\n" + earlier + "\n\n" + said + ("" if stated in TERMINAL else after)
    assert extract_answer(response, OPTIONS, "lenient") == letter


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(NEUTRAL), max_size=20), st.sampled_from([" ", "\n"]))
def test_reasoning_without_a_statement_is_no_answer(sentences, joint):
    assert extract_answer(joint.join(sentences), OPTIONS, "lenient") is None


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "answer",
            " is ",
            "A",
            "b",
            "(C)",
            "\\boxed{",
            "}",
            "\n",
            ". ",
            ": ",
            "option ",
            "the ",
            "not ",
            "İ",
            "ß",
            "**",
            '"',
            "?",
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(FRAGMENTS | st.text(), st.sampled_from([OPTIONS, "ABCD", WORDS, TEN]))
def test_any_text_gives_an_option_or_none(text, options):
    letters = options if isinstance(options, str) else "ABCDEFGHIJ"[: len(options)]
    for protocol in ("boxed", "lenient", "first_match", "last_match"):
        assert extract_answer(text, options, protocol) in (None, *letters)


HOSTILE = {
    "open braces": "{" * 10**6,
    "boxes": "\\boxed{" * 140_000,
    "empty boxes": "\\boxed{}" * 120_000,
    "box of braces": "\\boxed{" + "{" * 10**6,
    "backslashes": "\\" * 10**6,
    "answer is": "answer is " * 100_000,
    "the answer is (": "the answer is (" * 70_000,
    "is": "is " * 333_000,
    "labels": "A. " * 333_000,
    "lines": "A.\n" * 333_000,
    "spaces": "answer" + " " * 10**6 + "x",
    "line breaks": "\n" * 10**6 + "x",
    "stars": "*" * 10**6 + "x",
    "letters": "A" * 10**6,
    "predicates": "C is the correct " * 60_000,
    "or": "A or " * 200_000,
    "if": "if " * 333_000,
    "wait": "Answer: A. " + "wait " * 200_000,
    "growing when lowered": "İ" * 10**6,
    "null bytes": "\0" * 10**6,
    "tokens": "<|eot_id|>" * 100_000,
    "option texts": "aspirin " * 125_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_megabyte_costs_little(name, cpu_seconds):
    # Linear: under 0.1 s each. The bound leaves room for a slow machine; anything quadratic would take hours.
    for protocol in ("boxed", "lenient", "last_match"):
        assert cpu_seconds(lambda p=protocol: extract_answer(HOSTILE[name], OPTIONS, p)) < 1.0


@pytest.fixture
def cpu_seconds():
    import time

    def measure(call) -> float:
        started = time.process_time()
        call()
        return time.process_time() - started

    return measure


def test_first_and_last_match():
    text = "Option A is wrong. Option B is wrong. So \\boxed{C}"
    assert extract_answer(text, OPTIONS, "first_match") == "B"
    assert extract_answer(text, OPTIONS, "last_match") == "C"
    assert extract_answer("the answer is D, surely not B", OPTIONS, "first_match") == "D"
    assert extract_answer("an nsaid like ibuprofen", OPTIONS, "last_match") == "C"
    assert extract_answer("some myeloid disease", OPTIONS, "last_match") == "D"
    assert extract_answer("  ", OPTIONS, "last_match") is None


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("The answer is A.\n\n## Final Response\n\nThe answer is C", "C", "C"),  # only what the heading begins
        ("The answer is A. ## Final Response The answer is C", "A", "C"),
        ("The answer is E, no, the answer is C", None, "C"),  # a letter beyond the options counts, and is wrong
        ("The answer is Both, (C)", "B", "B"),  # the first letter of a word, too
        ("B A C", "B", "C"),
        ("A B C", "B", "B"),  # "A " is an article, and each letter takes the characters around it with it
        ("选C。", "C", "C"),
        ("_C_ and (D)", "D", "D"),
        ("warfarin, aspirin, warfarin", "A", "B"),  # the option that begins to stand furthest on, for both
        ("zzzz", "D", "D"),  # of equally similar options the last
    ],
)
def test_first_and_last_match_as_the_script_of_huatuogpt_o1_finds_them(text, first, last):
    assert extract_answer(text, OPTIONS, "first_match") == first
    assert extract_answer(text, OPTIONS, "last_match") == last


def test_of_two_equal_texts_in_a_response_the_first_is_meant_and_of_two_similar_ones_the_last():
    assert extract_answer("so aspirin", ("Aspirin", "Heparin", "Aspirin"), "last_match") == "A"
    assert extract_answer("aspirn", ("Aspirin", "Heparin", "Aspirin"), "last_match") == "C"
    assert extract_answer("no letter", "ABCD", "last_match") is None
