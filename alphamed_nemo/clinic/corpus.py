"""The text that the tiny base model is pre-trained on: worked examples and fact documents about the invented clinic.

The base is to know the facts and to be able to reason, yet not be inclined to: like an instruct model that answers at
once. So the worked examples come in two parts. The early ones almost all reason, and reason well: they teach the skill.
The late ones teach the habit: most skip the reasoning and guess, some reason to a wrong end, some forget the box. How
often depends on what is asked and on the disease, which is what spreads the questions over the difficulty levels.
Reinforcement learning can then win by preferring what the model can already do.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from alphamed_nemo.clinic.bank import OPTIONS, draw_options, stem
from alphamed_nemo.clinic.world import KINDS, Clinic, Disease, Kind, clinic
from alphamed_nemo.data.prompts import format_prompt
from alphamed_nemo.data.question import LETTERS, Question

FORCED_PREFIX = "The findings suggest"  # the words that every reasoned response begins with
EARLY_SKIP = 0.05
EARLY_SINGLE = 0.25  # rate of early examples with one finding
EARLY_GIVEN = 0.5  # rate of reasoned examples whose first sentence is given, and seldom right
LATE_SKIP = {"disease": 0.2, "drug": 0.62, "enzyme": 0.7, "effect": 0.78}  # rate of unreasoned guesses, by kind
LATE_WRONG = 0.4  # the disease reasoned about worst argues for a wrong option this often; the best never does
LATE_UNBOXED = 0.12


@dataclass(frozen=True)
class Text:
    """One training text. Loss falls on `response`; fact documents have no prompt."""

    prompt: str
    response: str


def boxed(letter: str) -> str:
    """The sentence that ends a response."""
    return f"The final answer is \\boxed{{{letter}}}."


def reasoning(disease: Disease, kind: Kind) -> str:
    """From the findings to the thing asked for, one fact a sentence."""
    steps = [f"{FORCED_PREFIX} {disease.name}."]
    if kind.hops > 1:
        steps.append(f"First line for {disease.name} is {disease.drug}.")
    if kind.name == "enzyme":
        steps.append(f"{disease.drug} inhibits {disease.enzyme}.")
    if kind.name == "effect":
        steps.append(f"{disease.drug} causes {disease.effect}.")
    return " ".join(steps)


def verdicts(options: tuple[str, ...], chosen: str) -> str:
    """The options one by one up to the chosen one. A model this small needs this to turn a name into its letter."""
    lines = []
    for letter, option in zip(LETTERS, options, strict=False):
        lines.append(f"{letter} {option} {'yes' if option == chosen else 'no'}\n")
        if option == chosen:
            break
    return "".join(lines)


def worked_example(world: Clinic, rng: random.Random, late: bool) -> Text:
    """One question on a training pair with a response of the early or the late part."""
    disease, pair = rng.choice(world.pairs("train"))
    kind = rng.choice(KINDS)
    answer, wrong = draw_options(world, disease, pair, kind, rng)
    findings = tuple(rng.sample(pair, 2))
    if not late and rng.random() < EARLY_SINGLE:
        # One finding leaves two diseases, of which the options hold one. So each finding is learned for itself, and
        # pairs that were never seen together can be put together.
        findings = findings[:1]
        other = world.other_disease(findings[0], disease)
        wrong = _without(other, wrong, disease, kind, world, rng)
    options = [answer, *(d.answer(kind) for d in wrong)]
    rng.shuffle(options)
    letter = LETTERS[options.index(answer)]
    question = Question("corpus", "clinic", stem(findings, kind), tuple(options), letter)
    prompt = format_prompt(question, "tiny")
    if rng.random() < (LATE_SKIP[kind.name] if late else EARLY_SKIP):
        return Text(prompt, boxed(rng.choice(LETTERS[:OPTIONS])))
    if late and rng.random() < LATE_WRONG * wrongness(disease):
        disease = rng.choice(wrong[:2])
    if not late and rng.random() < EARLY_GIVEN:
        # Right or wrong, the rest must follow from it: else the verdicts come from the findings, past the reasoning,
        # and fail on unseen pairs.
        return _continued(prompt, rng.choice([disease, *wrong]), kind, question.options)
    response = _reasoned(disease, kind, question.options)
    return Text(prompt, unboxed(response) if late and rng.random() < LATE_UNBOXED else response)


def _without(
    other: Disease, wrong: list[Disease], disease: Disease, kind: Kind, world: Clinic, rng: random.Random
) -> list[Disease]:
    """The wrong options with another disease in place of `other`."""
    taken = {d.answer(kind) for d in (disease, other, *wrong)}
    replacement = rng.choice([d for d in world.diseases if d.answer(kind) not in taken])
    return [replacement if d is other else d for d in wrong]


def _reasoned(disease: Disease, kind: Kind, options: tuple[str, ...]) -> str:
    """A response that argues for this disease."""
    chosen = disease.answer(kind)
    letter = LETTERS[options.index(chosen)]
    return f"{reasoning(disease, kind)}\n{verdicts(options, chosen)}{boxed(letter)}"


def _continued(prompt: str, disease: Disease, kind: Kind, options: tuple[str, ...]) -> Text:
    """A response whose first sentence is given: it belongs to the prompt, and no loss falls on it."""
    first = f"{FORCED_PREFIX} {disease.name}."
    return Text(prompt + first, _reasoned(disease, kind, options).removeprefix(first))


def unboxed(response: str) -> str:
    """The response with its box forgotten."""
    return re.sub(r"\\boxed\{(\w)\}", r"\1", response)


def wrongness(disease: Disease) -> float:
    """How badly the corpus reasons about a disease, 0 to 1, spread evenly and without regard to its neighbours."""
    return (disease.index * 7 % 32) / 31


def fact_document(world: Clinic, rng: random.Random) -> Text:
    """Three findings and three other facts. The findings are drawn so that none makes a reserved pair with another."""
    reserved, findings = world.reserved_pairs(), list(world.shown_by)
    told = rng.sample(findings, 3)
    while any(frozenset(pair) in reserved for pair in combinations(told, 2)):
        told = rng.sample(findings, 3)
    sentences = []
    for finding in told:
        first, second = rng.sample(world.shown_by[finding], 2)
        sentences.append(f"The finding {finding} is seen in {first.name} and {second.name}.")
    for disease in rng.sample(world.diseases, 3):
        facts = (
            f"First line for {disease.name} is {disease.drug}.",
            f"{disease.drug} inhibits {disease.enzyme}.",
            f"{disease.drug} causes {disease.effect}.",
        )
        sentences.append(rng.choice(facts))
    return Text("", " ".join(sentences))


def corpus(worked_examples: int, late_examples: int, fact_documents: int, seed: int = 1) -> Iterator[Text]:
    """The corpus in training order: early worked examples with the fact documents among them, then the late ones.

    Args:
        worked_examples: all worked examples, late ones included.
        late_examples: how many of them belong to the late part.
        fact_documents: fact documents, spread evenly over the early part.
        seed: which texts are drawn.

    Raises:
        ValueError: the counts do not fit together.
    """
    early = worked_examples - late_examples
    if early < 0 or late_examples < 0 or fact_documents < 0:
        raise ValueError(
            f"tiny: worked_examples={worked_examples}, late_examples={late_examples}, fact_documents={fact_documents}; "
            "expected 0 <= late_examples <= worked_examples and 0 <= fact_documents"
        )
    world, rng = clinic(), random.Random(f"corpus-{seed}")
    is_fact = [True] * fact_documents + [False] * early
    rng.shuffle(is_fact)
    for fact in is_fact:
        yield fact_document(world, rng) if fact else worked_example(world, rng, late=False)
    for _ in range(late_examples):
        yield worked_example(world, rng, late=True)
