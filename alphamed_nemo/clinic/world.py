"""An invented clinical world: diseases, findings, drugs, enzymes and adverse effects that exist nowhere else.

Everything about it is made up, names included, so a model can know it only from the corpus that we write, and a
question can be kept from the model with certainty. The world is fixed by one seed, because the shipped tiny base model
knows this world and no other.

    finding (80)  --two of them-->  disease (32)  --first line-->  drug (16)  --inhibits-->  enzyme (16)
                                                                              --causes---->  adverse effect (16)

A finding occurs in two diseases, and two diseases share at most one finding: one finding leaves two candidates, any two
findings of a patient leave one. Of the ten pairs of findings that a disease has, six are for training, two are
development pairs and two held-out pairs; no text that any model is trained on holds both findings of the last four.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations

WORLD_SEED = 1
DISEASES, DRUGS = 32, 16
FINDINGS = 6  # a disease
NEIGHBOUR_STEPS = (1, 5, 11)  # disease i shares a finding with i±1, i±5 and i±11 (mod 32)
DRUG_STEP = 8  # diseases i and i+8 share a drug: no two of a disease and its neighbours do
SPLITS = ("train", "development", "heldout")

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "pl", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_SUFFIXES = {"disease": "sis", "finding": "emia", "drug": "mab", "enzyme": "ase", "effect": "itis"}


@dataclass(frozen=True)
class Kind:
    """What a question asks for. `hops` is the number of facts between the findings and the answer."""

    name: str
    ask: str
    hops: int


KINDS = (
    Kind("disease", "Which disease is it?", 1),
    Kind("drug", "Which drug is first line?", 2),
    Kind("enzyme", "Which enzyme does the first line drug inhibit?", 3),
    Kind("effect", "Which effect can the first line drug cause?", 3),
)


@dataclass(frozen=True)
class Disease:
    """One disease with its six findings, the pairs of them by split, and what follows from it."""

    index: int
    name: str
    findings: tuple[str, ...]
    pairs: dict[str, tuple[tuple[str, str], ...]]
    drug: str
    enzyme: str
    effect: str

    def answer(self, kind: Kind) -> str:
        """The right answer to a question of this kind about this disease."""
        return self.name if kind.name == "disease" else getattr(self, kind.name)


@dataclass(frozen=True)
class Clinic:
    """The world: 32 diseases, and for each finding the two diseases that show it."""

    diseases: tuple[Disease, ...]
    shown_by: dict[str, tuple[Disease, Disease]]

    def other_disease(self, finding: str, disease: Disease) -> Disease:
        """The other disease that shows the finding."""
        first, second = self.shown_by[finding]
        return second if first is disease else first

    def pairs(self, split: str) -> list[tuple[Disease, tuple[str, str]]]:
        """Every (disease, pair of its findings) of a split, in a fixed order."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; the clinic has {', '.join(SPLITS)}")
        return [(disease, pair) for disease in self.diseases for pair in disease.pairs[split]]

    def reserved_pairs(self) -> set[frozenset[str]]:
        """The pairs of findings that no training text may combine: development and held-out."""
        return {frozenset(pair) for split in ("development", "heldout") for _, pair in self.pairs(split)}

    def names(self) -> list[str]:
        """Every invented name, in a fixed order."""
        names = list(self.shown_by)
        for disease in self.diseases:
            names += [disease.name, disease.drug, disease.enzyme, disease.effect]
        return list(dict.fromkeys(names))


def _invent_names(rng: random.Random) -> dict[str, list[str]]:
    """Distinct names of two syllables and a suffix that tells the kind."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    counts = {"disease": DISEASES, "finding": DISEASES * FINDINGS // 2, "drug": DRUGS, "enzyme": DRUGS, "effect": DRUGS}
    stems = rng.sample([a + b for a in syllables for b in syllables if a != b], sum(counts.values()))
    return {kind: [stems.pop() + _SUFFIXES[kind] for _ in range(count)] for kind, count in counts.items()}


def _split_pairs(findings: list[str], rng: random.Random) -> dict[str, tuple[tuple[str, str], ...]]:
    """Reserve a path through the six findings, so that each still occurs in three or four training pairs."""
    a, b, c, d, e, f = order = rng.sample(findings, FINDINGS)
    heldout, development = ((a, b), (c, d)), ((b, c), (e, f))
    train = tuple(pair for pair in combinations(order, 2) if pair not in heldout + development)
    return {"heldout": heldout, "development": development, "train": train}


@cache
def clinic(seed: int = WORLD_SEED) -> Clinic:
    """The world of a seed. The shipped base model knows the one of `WORLD_SEED`."""
    rng = random.Random(f"clinic-{seed}")
    names = _invent_names(rng)
    findings_of: list[list[str]] = [[] for _ in range(DISEASES)]
    holders: dict[str, tuple[int, int]] = {}
    shared = {frozenset((i, (i + step) % DISEASES)) for i in range(DISEASES) for step in NEIGHBOUR_STEPS}
    for finding, (i, j) in zip(names["finding"], sorted(map(sorted, shared)), strict=True):
        holders[finding] = (i, j)
        findings_of[i].append(finding)
        findings_of[j].append(finding)
    drug_of = [i % DRUG_STEP + DRUG_STEP * (i // (2 * DRUG_STEP)) for i in range(DISEASES)]
    diseases = tuple(
        Disease(
            index=i,
            name=names["disease"][i],
            findings=tuple(findings_of[i]),
            pairs=_split_pairs(findings_of[i], rng),
            drug=names["drug"][drug_of[i]],
            enzyme=names["enzyme"][drug_of[i]],
            effect=names["effect"][drug_of[i]],
        )
        for i in range(DISEASES)
    )
    return Clinic(diseases, {finding: (diseases[i], diseases[j]) for finding, (i, j) in holders.items()})
