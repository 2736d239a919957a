"""The training rule, case by case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.rewards.rule import score
from alphamed_nemo.rewards.score import RewardItem

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")
GREEK = (r"$\alpha$ receptor", r"$\beta$ receptor", r"$\gamma$ receptor")

READ_AS_C = [
    r"\boxed{C}",
    r"\boxed{c}",
    r"\boxed{ C }",
    r"\boxed {C}",
    "\\boxed{\nC\n}",
    r"\boxed{C.}",
    r"\boxed{C)}",
    r"\boxed{(C)}",
    r"\boxed{[C]}",
    r"\boxed{'C'}",
    r"\boxed{**C**}",
    r"\boxed{$C$}",
    r"\boxed{\$C\$}",
    r"\boxed{{C}}",
    r"\boxed{\text{C}}",
    r"\boxed{\textbf{(C)}}",
    r"\boxed{\mathrm{C}}",
    r"\boxed{\boxed{C}}",
    r"\boxed{Option C}",
    r"\boxed{Answer: C}",
    r"\boxed{The answer is C}",
    r"\boxed{C: Ibuprofen}",
    r"\boxed{C. Ibuprofen}",
    r"\boxed{\text{C. Ibuprofen}}",
    r"\boxed{(C) Ibuprofen}",
    r"\boxed{C Ibuprofen}",
    r"\boxed{C - Ibuprofen}",
    r"\boxed{C: an NSAID}",
    r"\boxed{Ibuprofen}",
    r"\boxed{ibuprofen.}",
    r"\boxed{Ibuprofen (C)}",
    r"\boxed{A} no, \boxed{C}",
    r"\boxed{C} is my answer; A is wrong.",
    r"\boxed{C}}}}",
    r"{{{\boxed{C}",
    r"The final answer is: $\boxed{C}$",
    r"\boxed{} then \boxed{C}",
]
READ_AS_NONE = [
    "",
    "The answer is C",
    "boxed{C}",
    r"\boxed",
    r"\boxed C",
    r"\boxed{C",
    r"\boxed{C\}",
    r"\boxed{}",
    r"\boxed{ }",
    r"\boxed{\boxed{}}",
    r"\boxed{C} and then \boxed{}",
    r"\boxed{C} and then \boxed{A",
    r"\boxed{E}",
    r"\boxed{Z}",
    r"\boxed{AB}",
    r"\boxed{ABCD}",
    r"\boxed{A, B}",
    r"\boxed{A,B,C,D}",
    r"\boxed{A and B}",
    r"\boxed{A \text{ or } B}",
    r"\boxed{A/B}",
    r"\boxed{A|B}",
    r"\boxed{A+B}",
    r"\boxed{A; B}",
    r"\boxed{A B}",
    r"\boxed{(A)(B)}",
    r"\boxed{A. B. C. D.}",
    r"\boxed{A: x, B: y}",
    r"\boxed{\frac{C}{D}}",
    r"\boxed{C: Aspirin}",
    r"\boxed{Ibuprofen (A)}",
    r"\boxed{A patient}",
    r"\boxed{not C}",
    r"\boxed{either A}",
    r"\boxed{the answer}",
    r"\boxed{42}",
    r"\boxed{none}",
    r"\boxed{C-reactive protein}",
    r"\boxed{C. difficile}",
    r"\boxed{B-cell}",
    r"\boxed{Ibuprofen or aspirin}",
    r"\fbox{C}",
    r"\boxed{" + "C: " + "x" * 2000 + "}",
]


BOXES_OF_C = [  # fonts, colours, and characters that only look different
    r"\textcolor{red}{C}",
    r"\color{red} C",
    r"{\color{blue}{C}}",
    r"\mathbf{C}",
    "Ｃ",
    "（Ｃ）",
    "C\u200b",
    "\u200bC",
    "C\ufeff",
    "\u200eC\u200f",
    "𝐂",
    r"\boldsymbol{C}",
    r"\mathrm{C}\ ",
    r"\,C\,",
    r"\Large C",
    r"\textbf{C. Ibuprofen}",
    r"\text{C: }\text{Ibuprofen}",
    "C — Ibuprofen",
    "C – Ibuprofen",
    r"C (Ibuprofen)",
    r"C(Ibuprofen)",
    r"(C) ibuprofen",
    "Ibu\u200bprofen",
    "\xa0C\xa0",
    "C．",
    "C：Ibuprofen",
    r"\textcolor{red}{\textbf{C}}",
    r"\colorbox{yellow}{C}",
    r"\underline{C}",
    r"\bf C",
    r"C \quad",
    r"C. Ibuprofen, an NSAID",
    r"C = Ibuprofen",
    r"answer = C",
    r"Option~C",
    r"\text{Option } C",
    r"\text{Choice (C)}",
    r"\mathsf{C}",
    "Ⓒ",
    r"C: NSAID that blocks COX and reduces fever",
    r"`C`",
    '"C"',
    r"C: Ibuprofen (an NSAID)",
    r"\boxed{\textcolor{red}{C}}",
    r"\displaystyle C",
    r"\emph{C}",
    r"\fcolorbox{red}{white}{C}",
    r"\text{\textbf{C}}",
    r"\textcolor[rgb]{1,0,0}{C}",
    r"\left( C \right)",
    r"\mathbb{C}",
    r"C:",
    r"C;",
    r"C,",
    r"ibuprofen",
    r"\textit{Ibuprofen}",
    r"IBUPROFEN",
    "Ｉｂｕｐｒｏｆｅｎ",
]
BOXES_OF_NONE = [  # formulas, negations, corrections, questions
    r"D = 4",
    r"\neg C",
    r"C = 4",
    r"f(RR)+f(Rr)",
    r"C + 1",
    r"C > 5",
    r"C < 5",
    r"2C",
    r"C-1",
    r"C - 1",
    r"C^2",
    r"C_2",
    r"C_{max}",
    r"\sqrt{C}",
    r"\overline{C}",
    r"\bar{C}",
    r"C?",
    r"C (wrong)",
    r"C is wrong",
    r"C: incorrect",
    r"no, C",
    "A → C",
    r"A \to C",
    r"A, no C",
    r"C instead of A",
    r"C, not A",
    r"C rather than A",
    r"C (not A)",
    r"all except C",
    r"everything but C",
    r"\cancel{C}",
    r"\sout{A} C",
    r"~~A~~ C",
    r"~~C~~",
    r"!C",
    "¬C",
    r"C'",
    r"P(C) = 0.5",
    r"[C] = 5",
    r"C = A",
    r"C \ne D",
    r"C \neq A",
    r"x = C",
    r"C/D",
    r"C: Ibuprofen or aspirin",
    r"C. Ibuprofen is wrong",
    r"C: Ibuprofen, not correct",
    r"neither C",
    r"C or none",
    r"maybe C",
    r"C: maybe",
    "C ≈ 4",
    "C°",
    r"C^\circ",
    r"C%",
    r"C=12",
    r"\Delta C",
    r"C(x)",
    r"c(t)",
    r"\frac{C}{2}",
    r"A wait C",
    r"C actually A",
    r"C. no, A",
    r"ibuprofen (not aspirin)",
    r"not ibuprofen",
    r"Ibuprofen?",
    r"Ibuprofen = 5",
    "Aspirin → Ibuprofen",
    r"C: 15",
    r"C \times 2",
    r"C + D",
    "C≠D",
    r"C, D, or none",
    r"C unless A",
    r"A: 1, C: 2",
    r"C. Ibuprofen is not the answer",
    r"D_2",
    r"D_{2}",
    r"\text{not } C",
    r"\text{C is incorrect}",
    "C → D",
    r"-C",
    r"C!=4",
    r"C == 4",
    r"Not (C)",
    r"C: Ibuprofen; D: none",
    "C ∧ D",
    "C ∨ D",
    r"\sim C",
    "C×D",
    r"|C|",
    "∂C",
    r"dC/dt",
    r"C: Ibuprofen + Aspirin",
    r"Ibuprofen + Aspirin",
]


@pytest.mark.parametrize("protocol", ["boxed", "lenient"])
@pytest.mark.parametrize(("boxes", "letter"), [(BOXES_OF_C, "C"), (BOXES_OF_NONE, None)])
def test_what_a_box_holds_is_one_option_and_nothing_else(boxes, letter, protocol):
    options = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")
    read = {box: extract_answer(rf"Some text. \boxed{{{box}}}", options, protocol) for box in boxes}
    assert read == dict.fromkeys(boxes, letter)


@pytest.mark.parametrize("protocol", ["boxed", "lenient"])
@pytest.mark.parametrize(
    ("options", "box", "letter"),
    [
        *(
            (GREEK, rf"$\{name}$ receptor", letter)
            for name, letter in zip(("alpha", "beta", "gamma"), "ABC", strict=True)
        ),
        *((GREEK, f"{char} receptor", letter) for char, letter in zip("αβγ", "ABC", strict=True)),
        (GREEK, "Beta receptor", "B"),
        (GREEK, r"\text{A: }\alpha\text{ receptor}", "A"),
        (GREEK, r"A: $\beta$ receptor", None),
        (GREEK, "receptor", None),
        (GREEK, r"$\delta$ receptor", None),
        (("α-blocker", "β-blocker", "δ"), r"$\beta$-blocker", "B"),
        (("α-blocker", "β-blocker", "δ"), "alpha-blocker", "A"),
        (("α-blocker", "β-blocker", "δ"), r"\delta", "C"),
        (("$10^{5}$", "10^6", "x_1", "x_2"), "10⁵", "A"),
        (("$10^{5}$", "10^6", "x_1", "x_2"), "$10^6$", "B"),
        (("$10^{5}$", "10^6", "x_1", "x_2"), "105", None),
        (("$10^{5}$", "10^6", "x_1", "x_2"), "x₂", "D"),
        ((r"$p \ne q$", "$p = q$", "p"), r"p \neq q", "A"),
        ((r"$p \ne q$", "$p = q$", "p"), "p = q", "B"),
        ((r"$\uparrow$ Ca", r"$\downarrow$ Ca", "Ca"), "↓ Ca", "B"),
        ((r"$\geq 5$", r"$\leq 5$", "5"), r"\leq 5", "B"),
        (("5%", "5", "0.5%"), r"5\%", "A"),
        (("Aspirin", "aspirin ", "Zinc"), r"\text{ASPIRIN}", None),
        ((r"$\beta$ cell", "β cell", "Zinc"), r"$\beta$ cell", None),
        (("a", "b", "c", "d", "e", "f"), "f(RR)+f(Rr)", None),
        (("a", "b", "c", "d", "e", "f"), "E = mc^2", None),
    ],
)
def test_tex_that_means_something_is_read(options, box, letter, protocol):
    assert extract_answer(rf"\boxed{{{box}}}", options, protocol) == letter


def documented_boxes() -> list[tuple[str, str | None]]:
    """The boxes of docs/grading.md's table that are read as C or as none."""
    page = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.split("## lenient")[0].split("\n") if line.startswith("| `")]
    read = [(re.findall(r"`([^`]+)`", row[0]), row[1].strip()) for row in rows]
    return [(box, "C" if said == "C" else None) for boxes, said in read if said in ("C", "none") for box in boxes]


@pytest.mark.parametrize(("box", "letter"), documented_boxes())
def test_documented_box(box, letter):
    assert extract_answer(f"Some text. {box}" if "boxed" in box else f"\\boxed{{{box}}}", OPTIONS) == letter


@pytest.mark.parametrize("response", READ_AS_C)
def test_one_option_in_the_last_box(response):
    assert extract_answer(response, OPTIONS) == "C"


@pytest.mark.parametrize("response", READ_AS_NONE)
def test_no_single_option_in_the_last_box(response):
    assert extract_answer(response, OPTIONS) is None


def test_letters_are_enough_where_the_texts_are_unknown():
    assert extract_answer(r"\boxed{C}", "ABCD") == "C"
    assert extract_answer(r"\boxed{J}", "ABCDEFGHIJ") == "J"
    assert extract_answer(r"\boxed{E}", "ABCD") is None


@pytest.mark.parametrize(
    ("box", "letter"), [("yes", "A"), ("No", "B"), (r"\text{maybe}", "C"), ("Yes.", "A"), ("B", "B")]
)
def test_yes_no_maybe_are_answered_with_the_word(box, letter):
    assert extract_answer(rf"\boxed{{{box}}}", ("yes", "no", "maybe")) == letter


def test_yes_and_no_contradicting_their_letter_is_no_answer():
    assert extract_answer(r"\boxed{A: no}", ("yes", "no", "maybe")) is None
    assert extract_answer(r"\boxed{yes or no}", ("yes", "no", "maybe")) is None


def test_a_letter_is_a_letter_even_where_option_texts_are_letters():
    blood_groups = ("O", "A", "B", "AB")
    assert extract_answer(r"\boxed{A}", blood_groups) == "A"
    assert extract_answer(r"\boxed{AB}", blood_groups) == "D"
    assert extract_answer(r"\boxed{O}", blood_groups) == "A"


@given(before=st.text(), after=st.text(), letter=st.sampled_from("ABCD"))
def test_whatever_surrounds_the_last_box(before, after, letter):
    after = after.replace("\\boxed", "")
    assert extract_answer(f"{before}\\boxed{{{letter}}}{after}", OPTIONS) == letter


@given(st.text(alphabet="\\boxed{}ABCDabcd ,.()$:\n") | st.text())
def test_any_text_gives_an_option_or_none(text):
    assert extract_answer(text, OPTIONS) in (None, *"ABCD")


def test_reward_is_one_only_for_the_key():
    item = RewardItem(r"\boxed{C}", "C", OPTIONS)
    assert (score(item).reward, score(item).answer, score(item).reason) == (1.0, "C", "correct")
    wrong = score(RewardItem(r"\boxed{A}", "C", OPTIONS))
    assert (wrong.reward, wrong.answer, wrong.reason) == (0.0, "A", "wrong")
    none = score(RewardItem("The answer is C", "C", OPTIONS))
    assert (none.reward, none.answer, none.reason) == (0.0, None, "no_answer")


def test_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="strict.*boxed"):
        extract_answer("x", OPTIONS, "strict")
