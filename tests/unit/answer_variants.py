"""Responses made from the ways in which people state an answer, and speak of one without stating it."""

from __future__ import annotations

import random
from dataclasses import dataclass

LETTERS = "ABCD"
SETS = (
    ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia"),
    ("Pulmonary embolism", "Pertussis", "Pneumonia", "Diphtheria"),
    ("Increase the dose", "Stop the drug", "Order a CT scan", "Reassure the patient"),
)
NEUTRAL = (
    "A 45-year-old patient presents with pain",
    "The D_2 receptor is blocked",
    "The drug is used if there is a stent, or if the patient bleeds",
    "Vitamin C and hepatitis B are unrelated",
    "Some features point to an infection",
    "It is not clear at first",
    "Most patients do well",
    "It could be A or B",
)
ENDS = (". ", '." ', ".) ", ".** ", ".</think>", ".\n", ".\n\n", "! ", ".`\n", ".</p> ")
STATED = (
    "The answer is {0}.",
    "The correct answer is ({0}) {1}.",
    "Therefore, the answer is {0}. {1}.",
    "**Answer: {0}. {1}**",
    "There is no doubt that the answer is {0}.",
    "I think that {0} is the correct answer.",
    "Option {0} is the correct answer.",
    "The answer is ({0}), since ({2}) is wrong.",
    "Option {2} is wrong. The answer is ({0}) {1}.",
    "Although most students choose {2}, the correct answer is {0}.",
    "Many would pick {2}, but the answer is {0}.",
    "None of the other options fits, so {0} is the correct answer.",
    "The answer is {0}, not {2}.",
    "The incorrect statement is ({0}).",
    "The statement that is NOT true is {0}.",
    "All of the statements are true except {0}.",
    "The exception is option {0}.",
    "So ({2}) is true, and the false statement is ({0}).",
    "Therefore, $C$ and $D$ are equal, and the answer is ({0}).",
    "So $d$ is even. The answer is ({0}), that is {1}.",
    "The answer is ({0}). {5} does not fit this.",
    "The answer is ({0}), since {5} is worse.",
    '{{"reasoning": "x if y or if z.", "answer": "{0}"}}',
    "The final answer is \\boxed{{{0}}}.",
)
GOES_ON = (
    "",
    "",
    "",
    "\n\nQuestion: Which drug comes next?\nA. Gold\nB. Iron\nAnswer: {0}",
    "\n\nQuestion 2: And this?\nThe answer is {0}.",
    "\n\nQ. And this one?\nThe answer is {0}.",
    "\n* Q: And this one?\n* A: The answer is {0}.",
    "\n\n- **Q3:** And this one?\n- Answer: {0}",
    "\n\n4) Q) And this one?\nAnswer: {0}",
    "\n\nA 30-year-old man has a rash. What is it?\nA. Measles\nB. Mumps\nC. Scabies\nAnswer: {0}",
    "\n\nHuman: And this one?\n\nAssistant: The answer is {0}.",
    "<|im_end|>\n<|im_start|>user\nNext<|im_end|>\n<|im_start|>assistant\nAnswer: {0}",
)
WHO = (
    "Most students",
    "Many people",
    "My colleague",
    "Some clinicians",
    "The resident",
    "Several test-takers",
    "They",
    "He",
)
SAYING = ("think that", "believe", "say that", "would say that", "would argue that", "thought that", "assume that")
CLAIM = (
    "the answer is {0}",
    "option {0} is the correct answer",
    "{0} is correct",
    "the correct answer is ({0}) {1}",
    "{0}. {1} is the correct answer",
    "({0}) {1} is correct",
    "{1} is the correct answer",
    "the answer is {0}. {1}",
)
DOUBT = (
    "I doubt that",
    "I am not convinced that",
    "I do not believe that",
    "It is unlikely that",
    "It is not true that",
    "Nobody would say that",
    "It is commonly believed that",
    "I wonder whether",
    "Suppose that",
    "It would be wrong to say that",
    "If the patient were older,",
    "There is no evidence that",
    "Is it true that",
)
UNSTATED = (
    "None of the options (A, B, C, D) is the correct answer.",
    "None of A, B, C, or D is correct.",
    "Neither {0} nor {2} is the correct answer.",
    "Either {0} or {2} is the correct answer.",
    "If the patient were pregnant, {0} would be the correct answer.",
    "In a child, the answer would be {0}.",
    "Therefore, the {0}_2 receptor is blocked",
    "So the {0}₃ level falls",
    "{0}. {1}: this is not the most appropriate because",
    "Let us go through the options.\n\nA. {3}",
    "A. {3}: wrong.\nIt bleeds.\nB. {4}",
    "The answer is {0} or",
    "The answer is ({0}",
    "The answer is not {0}.",
    "The incorrect statement is not {0}.",
    "The answer is ({0}) {5}.",
    "The answer is ({0}) {5}. It fits best.",
    "The correct answer is {0}. {5}.",
    "**Answer: {0}) {5}**\n\nIt is seen most often.",
    "The answer is ({0}), {5}, as it fits.",
    "I choose {0}: {5}.",
    "The answer is option {0}, which is {5}.",
    "Therefore, ({0}) - {5}.",
    '{{"answer": "{0}. {5}"}}',
    "Option {0}, {5}, is the correct answer.",
    "So ${6}$ and ${7}$ are even.",
    "Thus \\({6}\\) divides \\({7}\\), and the sum grows.",
    "Therefore, ${0}$ and ${2}$ are parallel.",
    "Hence ${6}$ must be odd.",
    "We choose ${6}$ such that it is even.",
    "This is ${6}$, the speed of sound.",
    "so {6}, the distance, grows with time",
    "So the result is ${6}$, which we know.",
    "\\boxed{{{0} = 4}}",
    "\\boxed{{\\neg {0}}}",
    "\\boxed{{{0} → {2}}}",
)


@dataclass(frozen=True)
class Variant:
    """A response, the options, and what it answers; None where it states no answer."""

    response: str
    options: tuple[str, ...]
    answer: str | None


def variants(count: int, seed: int) -> list[Variant]:
    """Half of them state an answer."""
    rng = random.Random(seed)
    return [_stated(rng) if number % 2 else _unstated(rng) for number in range(count)]


def _reasoning(rng: random.Random) -> str:
    return "".join(rng.choice(NEUTRAL) + rng.choice(ENDS) for _ in range(rng.randint(0, 3)))


def _filled(rng: random.Random, template: str, options: tuple[str, ...], letter: str) -> str:
    other = rng.choice(LETTERS.replace(letter, ""))
    text_of = dict(zip(LETTERS, options, strict=True))
    small = (letter.lower(), other.lower())
    return template.format(letter, text_of[letter], other, options[0], options[1], text_of[other], *small)


def _stated(rng: random.Random) -> Variant:
    options, letter = rng.choice(SETS), rng.choice(LETTERS)
    goes_on = rng.choice(GOES_ON).format(rng.choice("AB"))
    return Variant(_reasoning(rng) + _filled(rng, rng.choice(STATED), options, letter) + goes_on, options, letter)


def _unstated(rng: random.Random) -> Variant:
    options, letter = rng.choice(SETS), rng.choice(LETTERS)
    kind = rng.randrange(3)
    if kind == 0:
        said = f"{rng.choice(WHO)} {rng.choice(SAYING)} {rng.choice(CLAIM)}."
    elif kind == 1:
        doubt = rng.choice(DOUBT)
        said = f"{doubt} {rng.choice(CLAIM)}{'?' if doubt.startswith('Is ') else '.'}"
    else:
        unstated = rng.choice(UNSTATED)
        before = "" if unstated.startswith(("{0}.", "A. ", "Let us")) else _reasoning(rng)
        return Variant(before + _filled(rng, unstated, options, letter), options, None)
    return Variant(_reasoning(rng) + _filled(rng, said, options, letter), options, None)
