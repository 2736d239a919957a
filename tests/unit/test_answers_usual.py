"""The short way to a response's letter is the long way's letter, whatever stands before the ending."""

from __future__ import annotations

import random

import pytest

from alphamed_nemo.answers.lenient import extract, usual
from alphamed_nemo.answers.options import Choices
from tests.unit.answer_variants import ENDS, NEUTRAL, SETS, UNSTATED

ENDINGS = (
    "The answer is ({0}).",
    "Therefore, the correct answer is {0}",
    "so, the final answer is: **{0}**.",
    "**The best answer is ({0}).**",
    "Answer: {0}",
    "**Final Answer: ({0})**",
    "## Correct Answer: {0}.",
    "The answer is \\boxed{{{0}}}.",
    "Answer: $\\boxed{{{0}}}$",
    '{{"step": "It fits.", "answer_choice": "{0}"}}',
    '{{"step": "It fits.",\n  "final_answer": "{0}. {1}"\n}}',
    '\n{{"answer": "{0}"}}',
)
BEFORE = (
    "",
    "A: Let's think step by step.",
    "Yes.",
    "C. Ibuprofen it is not",
    "B. The patient has a new murmur and fever, so it fits.",
    "Let us look at each of the options in turn:\n",
    "- A. Aspirin\n- B. Warfarin\n- C. Ibuprofen\n",
    "\\[ x = 2",
    "If the patient were older,",
    "Most students think that",
    "Wait, no.",
    "The answer is A\nThe answer is B\n",
    "Question: what is it?\nAnswer: B\n\n",
    "\\boxed{A}",
    'He said "C is wrong"',
    "The drug is sold in Ⓐ-shaped boxes.",
)
OPTIONS = (
    *SETS,
    ("yes", "no", "maybe", "Yes."),
    ("A", "B", "AB", "O"),
    ("(a) 5 mg", "(b) 10 mg", "it is C", "The answer is A"),
    ("Most likely B", "E. coli", "the best is A", "D"),
)


def responses(count: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        options, letter = rng.choice(OPTIONS), rng.choice("ABCDEI")
        own = options["ABCD".index(letter)] if letter in "ABCD" else "zinc"
        unstated = rng.choice(UNSTATED).format(letter, own, "B", *options[:2], own, "c", "d")
        parts = [rng.choice((*BEFORE, *NEUTRAL, unstated)) + rng.choice((" ", "\n", *ENDS)) for _ in range(3)]
        made.append(("".join(parts[: rng.randint(0, 3)]) + rng.choice(ENDINGS).format(letter, own), options))
    return made


def test_the_short_way_leads_where_the_long_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made = responses(4_000, seed=0)
    taken = sum(usual.read_usual(text, Choices(options)) is not None for text, options in made)
    short = [extract.extract_lenient(text, Choices(options)) for text, options in made]
    monkeypatch.setattr(extract, "read_usual", lambda text, choices: None)
    long = [extract.extract_lenient(text, Choices(options)) for text, options in made]
    different = [(*one, *both) for one, *both in zip(made, short, long, strict=True) if both[0] != both[1]]
    assert different == []
    assert taken > len(made) / 3, "the short way is hardly taken"
