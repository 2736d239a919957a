"""What a careful reader makes of wordings that models really use: found by reading their responses, in other words."""

from __future__ import annotations

import pytest

from alphamed_nemo.answers.protocols import extract_answer

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")
NUMBERED = ("(a) 5 mg, (b) 10 mg", "(a) 10 mg, (b) 5 mg", "(a) 1 mg, (b) 2 mg", "(a) 2 mg, (b) 1 mg")
STATEMENTS = tuple(f"({roman}) only" for roman in ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"))
GENES = ("AA", "Aa", "aa", "0.25")


@pytest.mark.parametrize(
    ("response", "options"),
    [
        # A letter of a formula is a variable.
        ("The clearance is therefore $C = \\frac{D}{t}$, so $d = 40", OPTIONS),
        ("Solving this for the dose, we get 5 = 3d, so d = 0.4 l/kg, and", OPTIONS),
        ("Therefore, $$c \\nu = 3.1 \\times 10^{2}$$ and the rate falls", OPTIONS),
        ("Hence $d(t) = 4$ at the beginning of the infusion, which goes on", OPTIONS),
        ("The change is therefore $\\mathrm{d} p = 4$ mm Hg in this vessel", OPTIONS),
        ("The correct formula for the clearance is (A (t - 1) + B (t - 2)) / 2, which we", OPTIONS),
        ("Hence $b \\geq 5$, and hence it is not known", OPTIONS),
        ("We write it as\n\\[0.25", GENES),
        # Equations and sentences in which an option's text stands for something else.
        ("These are solutions of the equation $y'' + 2y = 0.25$, of which there are many", GENES),
        ("The pH of the solution is 0.25 and falls further", GENES),
        # Several options that are called correct one after the other, and several answers in a row.
        ("It bleeds, so (B) is correct. It blocks COX, so (C) is correct. The next one is", OPTIONS),
        ("The answer is (B)\nThe answer is (D)\nThe answer is (A)", OPTIONS),
        ("The answer is (A, E).", OPTIONS),
        ("Answer: (A, B, C, D, E)", ("Aspirin",)),
        # An answer that is no option.
        ('{"thinking": "The diagnosis is A.", "answer": "None of the above"}', OPTIONS),
        ('{"thinking": "So the answer is B.", "answer_choice": "Not enough information"}', OPTIONS),
        ("The result is 0.25, so the answer is 0.25. However, this is not one of the options.", GENES),
        ("The closest option is (B), but none of the options is correct.", OPTIONS),
        ("The diagnosis in hepatitis B, but not in others, is by serology", OPTIONS),
        # Lower-case letters that number things within the options.
        ("Only the second dose is safe. The answer is (b).", NUMBERED),
        ("The answer is (i).", STATEMENTS),
    ],
)
def test_what_a_reader_would_not_take_for_an_answer(response, options):
    assert extract_answer(response, options, "lenient") is None


@pytest.mark.parametrize(
    ("response", "options", "answer"),
    [
        ("The drug that fits these findings most closely is: C. Ibuprofen.", OPTIONS, "C"),
        (
            "The one that is least likely to help in this man is:\n\nB. Warfarin.\n\nIt only thins the blood.",
            OPTIONS,
            "B",
        ),
        ("Her rash was caused by (A) Aspirin. This is because it came after a dose of it.", OPTIONS, "A"),
        ("The disease is referred to as D. Chronic myeloid leukemia.", OPTIONS, "D"),
        ("The option that best fits this pattern is (C).", OPTIONS, "C"),
        ("The first claim is false and the second is true, making the answer (C).", OPTIONS, "C"),
        ("Therefore, the answer is C = ibuprofen.", OPTIONS, "C"),
        ("The answer is $C$. So the drug helps.", OPTIONS, "C"),
        ("The answer is (A).", ("Brightness", "(a)", "Both", "(b)"), "A"),
        ("The answer is (I).", STATEMENTS, "I"),
        ("The answer is (ii) only.", STATEMENTS, "B"),
        ("This value is not among the options. The closest option is (B).", OPTIONS, "B"),
        ("\\boxed{A}\nAnswer: C", OPTIONS, "C"),
        ("At first \\boxed{A}, but (C).\nThe answer is C", OPTIONS, "C"),
        ("(A) is correct for adults. In children, (C) is the correct answer.", OPTIONS, "C"),
        ("The answer is (B)\nThe answer is (D)\nThe answer is (A)\nWe work it out. The answer is (C).", OPTIONS, "C"),
    ],
)
def test_what_a_reader_would_take_for_one(response, options, answer):
    assert extract_answer(response, options, "lenient") == answer


@pytest.mark.parametrize(
    "response",
    [
        "The options are: A. Aspirin.",
        "Some were treated with A. Aspirin. Others were treated with B. Warfarin.",
        "A common mistake is B. Warfarin.",
        "If she bled, it would be B. Warfarin.",
        "Is it B. Warfarin? This is not known.",
    ],
)
def test_an_option_that_is_merely_named_with_its_letter_is_none(response):
    assert extract_answer(response, OPTIONS, "lenient") is None


@pytest.mark.parametrize(
    "response",
    [
        "The sum is even, so $c$ and $d$ are even.",
        "so \\(c\\) and \\(d\\) are even, and",
        "Thus $b$ commutes with $a$ and is normal.",
        "We choose $c$ such that it holds.",
        "Therefore, $d$ equals 4.",
        "Hence $A$ and $B$ are parallel, which we know.",
        "so $a$, $b$, and $c$ are roots",
        "Since $c$ is even, so is $d$, and it is $c$ that counts.",
        "This is $c$, the speed of sound.",
        "so $\\mathrm{c}$ and $\\mathrm{d}$ are even",
        "so d, the distance, grows with time",
        "The result is $c$, and it grows",
        "That leaves $b$ and $c$ free",
    ],
)
def test_a_variable_is_no_answer(response):
    assert extract_answer(response, OPTIONS, "lenient") is None


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The answer is $c$.", "C"),
        ("Therefore, $C$.", "C"),
        ("Therefore, c.", "C"),
        ("making $C$ the best choice", "C"),
    ],
)
def test_a_letter_in_math_that_ends_a_statement_is_one(response, answer):
    assert extract_answer(response, OPTIONS, "lenient") == answer


@pytest.mark.parametrize(
    "response",
    [
        "The answer is (A) Warfarin. It thins the blood.",
        "The answer is A. Warfarin",
        "The answer is A: Warfarin\nIt thins the blood.",
        "The answer is **A** Warfarin.",
        "The answer is A (Warfarin).",
        "The answer is A - Warfarin.",
        "The answer is (A), Warfarin, as it thins the blood.",
        "The answer is option A, which is warfarin.",
        "The answer is (A)\nWarfarin",
        "**The answer is (A)**\n\nWarfarin",
        "I choose (A) Warfarin",
        "Option A, Warfarin, is correct.",
        "**Answer: (A) Warfarin**\n\nIt thins the blood.",
        '{"answer": "A. Warfarin"}',
        "<answer>A. Warfarin</answer>",
    ],
)
def test_a_letter_with_the_text_of_another_option_is_none(response):
    assert extract_answer(response, OPTIONS, "lenient") is None


@pytest.mark.parametrize(
    ("response", "options", "answer"),
    [
        ("The answer is (C). Aspirin bleeds.", OPTIONS, "C"),
        ("The answer is C. Aspirin, warfarin and leukemia are wrong.", OPTIONS, "C"),
        ("The answer is C; warfarin thins the blood", OPTIONS, "C"),
        ("The answer is C, warfarin being worse.", OPTIONS, "C"),
        ("The answer is C (not warfarin).", OPTIONS, "C"),
        ("The answer is C\n\nAspirin: wrong\nWarfarin: wrong", OPTIONS, "C"),
        ("Unlike option A, warfarin is correct.", OPTIONS, "B"),
        ("The answer is (D) -4%, since it falls.", ("3%", "4%", "-3%", "-4%"), "D"),
        ("The answer is (D) 3 mg.", ("3", "4", "4 mg", "3 mg daily"), "D"),
    ],
)
def test_another_option_in_the_next_clause_takes_nothing_back(response, options, answer):
    assert extract_answer(response, options, "lenient") == answer


@pytest.mark.parametrize(
    "heading",
    [
        "Q.",
        "* Q:",
        "- Q:",
        "**Q:**",
        "> Q:",
        "  Q:",
        "Q1.",
        "Q.1",
        "Q2)",
        "Q)",
        "[Q]",
        "• Q:",
        "1. Q:",
        "MCQ:",
        "Ques.",
    ],
)
@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_a_next_question_begins_with_any_heading(heading, gap):
    goes_on = f"{gap}{heading} Which metal is heavy?\nIt is lead. The answer is (B)."
    assert extract_answer(f"It blocks COX. The answer is (C).{goes_on}", OPTIONS, "lenient") == "C"
    unanswered = "It is a good drug, which is known for many years, and which helps most people" + goes_on
    assert extract_answer(unanswered, OPTIONS, "lenient") is None
