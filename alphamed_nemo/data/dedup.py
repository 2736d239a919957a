"""Duplicates within the training questions, and training questions that leak an evaluation set.

Texts are compared after normalising (Unicode NFKC, case, punctuation, spaces). Two questions match by the first rule
that holds:

1. `exact`: same stem and same options, in any order;
2. `same stem and answer`: same stem and same text of the correct option, whatever the distractors;
3. `near`: word 3-grams of stem and options with a Jaccard similarity of at least `near_jaccard`;
4. `contained` (leaks only): at least `contained_share` of the 8-grams of the shorter text (context and stem) occur in
   the longer. 8-grams are what Tülu 3 decontaminates with too (arXiv 2411.15124).

Rules 1 to 3 do not hold for questions about different contexts. Inside the training set rule 3 also asks for the same
correct answer: a question turned round ("… except") differs by one word and teaches something else. Questions with the
same stem and options but different keys contradict each other, and all of them go.

Candidates for rule 3 come from MinHash LSH, those for rule 4 from an index of the evaluation sets' 8-grams; both are
verified on the n-grams themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from datasketch import MinHash, MinHashLSH

from alphamed_nemo.data.comparable import BANDS, ROWS, Comparable, jaccard
from alphamed_nemo.data.question import Question

EXACT = "exact"
SAME_ANSWER = "same stem and answer"
NEAR = "near"
CONTAINED = "contained"
CONFLICT = "same question, different keys"


@dataclass(frozen=True)
class DedupSettings:
    """See `SourcesConfig` for the meaning of each."""

    near_jaccard: float = 0.8
    contained_share: float = 0.5
    contained_min_words: int = 25


@dataclass(frozen=True)
class Removal:
    """A removed question, and the kept (or evaluation) question that it matches with this similarity, 0 to 1."""

    id: str
    dataset: str
    rule: str
    match: str
    match_dataset: str
    similarity: float


class Index:
    """Questions that others are looked up in."""

    def __init__(self, settings: DedupSettings) -> None:
        self.settings = settings
        self.members: list[Comparable] = []
        self._asked: dict[tuple, list[int]] = defaultdict(list)
        self._answered: dict[tuple, list[int]] = defaultdict(list)
        self._lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))

    def add(self, member: Comparable, signature: MinHash) -> None:
        number = len(self.members)
        self.members.append(member)
        self._asked[member.asked].append(number)
        self._answered[member.answered].append(number)
        self._lsh.insert(number, signature, check_duplication=False)

    def exact(self, item: Comparable) -> Removal | None:
        """Match by rule 1 or 2."""
        for rule, numbers in ((EXACT, self._asked.get(item.asked)), (SAME_ANSWER, self._answered.get(item.answered))):
            for number in numbers or ():
                if item.same_context(self.members[number], self.settings.contained_share):
                    return _removal(item, rule, self.members[number], 1.0)
        return None

    def near(self, item: Comparable, signature: MinHash, same_answer: bool) -> Removal | None:
        """Best match by rule 3; `same_answer` asks for the same correct answer too."""
        candidates = [self.members[number] for number in sorted(self._similar(signature))]
        if same_answer:
            candidates = [member for member in candidates if member.answer == item.answer]
        if not candidates:
            return None
        grams = item.near_grams
        scores = [jaccard(grams, member.near_grams) for member in candidates]
        for number in sorted(range(len(scores)), key=lambda number: -scores[number]):
            if scores[number] < self.settings.near_jaccard:
                return None
            if item.same_context(candidates[number], self.settings.contained_share):
                return _removal(item, NEAR, candidates[number], scores[number])
        return None

    def alike(self, item: Comparable, signature: MinHash) -> Iterator[int]:
        """Numbers of all members that match by rules 1 to 3, whatever their answer."""
        share = self.settings.contained_share
        same = {*self._asked.get(item.asked, ()), *self._answered.get(item.answered, ())}
        grams = item.near_grams
        for number in sorted({*same, *self._similar(signature)}):
            member = self.members[number]
            near = number in same or jaccard(grams, member.near_grams) >= self.settings.near_jaccard
            if near and item.same_context(member, share):
                yield number

    def _similar(self, signature: MinHash) -> list[int]:
        return cast(list[int], self._lsh.query(signature))  # what `add` inserted, of which it knows no type


class ContainmentIndex:
    """The 8-grams of the evaluation questions that are long enough for rule 4."""

    def __init__(self, members: Iterable[Comparable], settings: DedupSettings) -> None:
        self.settings = settings
        self.members = [member for member in members if member.words >= settings.contained_min_words]
        self._sizes: list[int] = []
        self._holders: dict[int, list[int]] = defaultdict(list)
        for number, member in enumerate(self.members):
            grams = member.body_grams
            self._sizes.append(len(grams))
            for gram in grams:
                self._holders[gram].append(number)

    def shares(self, item: Comparable) -> dict[int, float]:
        """Member number → share of the shorter text's 8-grams that both have, for the members that match by rule 4."""
        if item.words < self.settings.contained_min_words:
            return {}
        grams = item.body_grams
        shared = Counter(number for gram in grams for number in self._holders.get(gram, ()))
        shares = {number: count / min(len(grams), self._sizes[number]) for number, count in shared.items()}
        return {number: share for number, share in shares.items() if share >= self.settings.contained_share}

    def contained(self, item: Comparable) -> Removal | None:
        """Best match by rule 4."""
        shares = self.shares(item)
        if not shares:
            return None
        best = max(shares, key=lambda number: (shares[number], -number))
        return _removal(item, CONTAINED, self.members[best], shares[best])


def deduplicate(questions: Sequence[Question], settings: DedupSettings) -> tuple[list[Question], list[Removal]]:
    """Questions without duplicates, the first of each kept in its place, and what was removed.

    The order of `questions` is the order of preference: where two sets share a question, it stays in the first.
    """
    items = [Comparable(question) for question in questions]
    removed: list[Removal] = list(_conflicts(items, settings))
    gone = {removal.id for removal in removed}
    index, kept = Index(settings), []
    for item in items:
        if item.question.id in gone:
            continue
        removal = index.exact(item)
        if removal is None:
            signature = item.signature()
            removal = index.near(item, signature, same_answer=True)
            if removal is None:
                index.add(item, signature)
                kept.append(item.question)
                continue
        removed.append(removal)
    return kept, removed


def decontaminate(
    train: Sequence[Question], evaluation: Iterable[Question], settings: DedupSettings
) -> tuple[list[Question], list[Removal]]:
    """Training questions that match no evaluation question by any of the four rules, and those removed."""
    index = Index(settings)
    for question in evaluation:
        member = Comparable(question)
        index.add(member, member.signature())
    containing = ContainmentIndex(index.members, settings)
    kept, removed = [], []
    for question in train:
        item = Comparable(question)
        removal = (
            index.exact(item) or index.near(item, item.signature(), same_answer=False) or containing.contained(item)
        )
        if removal is None:
            kept.append(question)
        else:
            removed.append(removal)
    return kept, removed


def group_alike(questions: Sequence[Question], settings: DedupSettings) -> list[list[Question]]:
    """Questions in groups such that none matches one of another group by any of the four rules; in their order.

    Matching is not transitive, so two questions of a group may have in common only that both match a third.
    """
    index, items = Index(settings), [Comparable(question) for question in questions]
    links: list[tuple[int, int]] = []
    for number, item in enumerate(items):
        signature = item.signature()
        links += [(number, other) for other in index.alike(item, signature)]
        index.add(item, signature)
    long = [number for number, item in enumerate(items) if item.words >= settings.contained_min_words]
    containing = ContainmentIndex((items[number] for number in long), settings)
    for number in long:
        links += [(number, long[other]) for other in containing.shares(items[number])]
    head = list(range(len(items)))  # each question's group, named by its first question

    def first(number: int) -> int:
        while head[number] != number:
            head[number] = head[head[number]]
            number = head[number]
        return number

    for one, other in links:
        low, high = sorted((first(one), first(other)))
        head[high] = low
    groups: dict[int, list[Question]] = defaultdict(list)
    for number, question in enumerate(questions):
        groups[first(number)].append(question)
    return list(groups.values())


def _conflicts(items: Sequence[Comparable], settings: DedupSettings) -> Iterator[Removal]:
    """All questions whose stem, options and context another has with a different key."""
    groups: dict[tuple, list[Comparable]] = defaultdict(list)
    for item in items:
        groups[item.asked].append(item)
    for group in groups.values():
        if len({item.answer for item in group}) == 1:
            continue
        for item in group:
            for other in group:
                if item.answer != other.answer and item.same_context(other, settings.contained_share):
                    yield _removal(item, CONFLICT, other, 1.0)
                    break


def _removal(item: Comparable, rule: str, match: Comparable, similarity: float) -> Removal:
    return Removal(
        item.question.id, item.question.dataset, rule, match.question.id, match.question.dataset, round(similarity, 4)
    )
