"""The clinic's question bank: multiple-choice questions about the invented clinic, made on the spot from a seed.

A question names two findings of a patient and asks for the disease, its first line drug, or the enzyme or the effect of
that drug. Of the three wrong options two belong to the diseases that share one of the findings, so no finding alone
gives the answer away.
"""

from __future__ import annotations

import random

from alphamed_nemo.clinic.world import KINDS, Clinic, Disease, Kind, clinic
from alphamed_nemo.data.question import LETTERS, Question

DATASET = "clinic"
OPTIONS = 4


def embedded_bank(
    n_train: int, n_heldout: int, seed: int = 1, n_development: int = 0
) -> tuple[list[Question], list[Question]] | tuple[list[Question], list[Question], list[Question]]:
    """Training and held-out questions; the same seed gives the same questions.

    Their pairs of findings are disjoint, so a held-out question is no training question with its options moved about.

    Args:
        n_train: training questions, at most 6,000.
        n_heldout: held-out questions, at most 1,200.
        seed: which questions are drawn. The world behind them does not depend on it.
        n_development: where above 0, a third list on pairs of their own, for choosing settings.

    Raises:
        ValueError: more questions were asked for than the clinic has.
    """
    train, heldout = _questions("train", n_train, seed), _questions("heldout", n_heldout, seed)
    return (train, heldout, _questions("development", n_development, seed)) if n_development else (train, heldout)


def development_questions(n: int, seed: int = 1) -> list[Question]:
    """Questions on the development pairs: for choosing settings, so that held-out questions stay unseen."""
    return _questions("development", n, seed)


def stem(findings: tuple[str, ...], kind: Kind) -> str:
    """The text of a question, without options."""
    return f"A patient has {' and '.join(findings)}. {kind.ask}"


def draw_options(
    world: Clinic, disease: Disease, pair: tuple[str, str], kind: Kind, rng: random.Random
) -> tuple[str, list[Disease]]:
    """The right answer, and the three diseases whose answers are the wrong options.

    The first two share a finding of the pair with the disease; the third is any other with an answer of its own.
    """
    wrong = [world.other_disease(finding, disease) for finding in pair]
    taken = {d.answer(kind) for d in (disease, *wrong)}
    wrong.append(rng.choice([d for d in world.diseases if d.answer(kind) not in taken]))
    return disease.answer(kind), wrong


def _questions(split: str, n: int, seed: int) -> list[Question]:
    """`n` distinct questions of a split, spread evenly over pairs and kinds, with balanced letters."""
    world = clinic()
    rng = random.Random(f"bank-{split}-{seed}")
    combinations = [(disease, pair, kind) for disease, pair in world.pairs(split) for kind in KINDS]
    per_combination = 11  # a fourth option can be drawn in at least 13 ways; stay below that
    if not 0 <= n <= (limit := len(combinations) * per_combination):
        raise ValueError(f"{split}: found {n} questions of the clinic, expected at most {limit}; ask for fewer")
    letters = _balanced_letters(n, rng)
    questions, seen = [], set()
    while len(questions) < n:
        for disease, pair, kind in rng.sample(combinations, min(len(combinations), n - len(questions))):
            answer, wrong = draw_options(world, disease, pair, kind, rng)
            texts = [d.answer(kind) for d in wrong]
            key = (frozenset(pair), kind.name, frozenset(texts))
            while key in seen:
                answer, wrong = draw_options(world, disease, pair, kind, rng)
                texts = [d.answer(kind) for d in wrong]
                key = (frozenset(pair), kind.name, frozenset(texts))
            seen.add(key)
            rng.shuffle(texts)
            letter = letters[len(questions)]
            texts.insert(LETTERS.index(letter), answer)
            questions.append(
                Question(
                    id=f"{DATASET}-{split}-{len(questions):04d}",
                    dataset=DATASET,
                    stem=stem(tuple(rng.sample(pair, 2)), kind),
                    options=tuple(texts),
                    answer=letter,
                    metadata={"kind": kind.name, "hops": kind.hops, "disease": disease.name, "findings": sorted(pair)},
                )
            )
    return questions


def _balanced_letters(n: int, rng: random.Random) -> list[str]:
    """`n` key letters whose counts differ by at most one, in random order."""
    letters = [LETTERS[i % OPTIONS] for i in range(n)]
    rng.shuffle(letters)
    return letters
