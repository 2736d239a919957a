"""Responses as models write them, to time grading with."""

from __future__ import annotations

import random

OPTIONS = (
    "Acute interstitial nephritis",
    "Type 2 renal tubular acidosis",
    "Minimal change disease",
    "Membranous nephropathy",
)
_SENTENCES = (
    "The patient presents with fever, cough and pleuritic chest pain.",
    "Given the elevated creatinine, renal function is most likely impaired.",
    "Beta blockers reduce myocardial oxygen demand by lowering heart rate.",
    "However, this finding would not be expected in a viral infection.",
    "Let's analyze each option in turn.",
    "Option A suggests a bacterial cause, which is less likely here.",
    "The laboratory values point to an anion gap metabolic acidosis.",
    "This is a classic presentation of the disease.",
    "We should consider the most common causes first.",
    "Therefore, the next step in management is imaging.",
    "Metformin is contraindicated in severe renal impairment.",
    "The best initial test for this condition is an ultrasound.",
    "It is important to rule out other diagnoses.",
)
_ENDINGS = {  # wording → (share of the mix, text after the reasoning)
    "boxed": (0.50, r" The answer is \boxed{{{letter}}}."),
    "line": (0.10, "\n\nAnswer: {letter}"),
    "JSON": (0.07, '\n{{"answer_choice": "{letter}"}}'),
    "bold": (0.10, "\n\n**{letter}. {text}**"),
    "sentence": (0.15, " Therefore, the correct answer is ({letter}) {text}, because it explains the findings. {more}"),
    "subject": (0.05, " Based on this, option {letter} is the most likely explanation for this patient. {more}"),
    "none": (0.03, ""),
}


def reasoning(rng: random.Random, characters: int) -> str:
    """About as many characters of sentences that state no answer."""
    sentences, size = [], 0
    while size < characters:
        sentences.append(rng.choice(_SENTENCES))
        size += len(sentences[-1]) + 1
    return rng.choice((" ", "\n")).join(sentences)


def mixed(count: int, seed: int = 0, characters: tuple[int, int] = (100, 2000)) -> list[str]:
    """Responses of the lengths given whose answers are worded in all ways of `_ENDINGS`."""
    rng, wordings = random.Random(seed), list(_ENDINGS)
    responses = []
    for wording in rng.choices(wordings, [_ENDINGS[name][0] for name in wordings], k=count):
        letter = rng.choice("ABCD")
        more = reasoning(rng, rng.choice((0, 60, 150)))
        ending = _ENDINGS[wording][1].format(letter=letter, text=OPTIONS["ABCD".index(letter)], more=more)
        responses.append(reasoning(rng, rng.randint(*characters)) + ending)
    return responses


def boxed(count: int, characters: int, seed: int = 0) -> list[str]:
    """Responses of about `characters` that end on a box."""
    rng = random.Random(seed)
    return [f"{reasoning(rng, characters)} \\boxed{{{rng.choice('ABCD')}}}." for _ in range(count)]


def hostile(characters: int) -> dict[str, str]:
    """What a careless pattern takes quadratic time on."""
    return {
        "open braces": "{" * characters,
        "backslashes": "\\" * characters,
        "open boxes": "\\boxed{" * (characters // 7),
        "cue words": "the answer is " * (characters // 14),
        "blanks": " " * characters,
    }
