"""The same questions asked in another way: how much a result depends on what should not matter.

    shuffled        options in another order
    relabelled      options in their order, each with another option's letter
    none_of_others  one wrong option replaced by "None of the other options"

A change follows from seed and question id alone. A question of which an option speaks of others ("all of the above",
"both A and B") stays as it is: a change would make its key wrong. Models trained by reinforcement may answer by the
place or the letter of an option; the share of answers that follow the letter instead of the text shows it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from alphamed_nemo.data.question import LETTERS, Question
from alphamed_nemo.evaluation.comparison import score
from alphamed_nemo.evaluation.paired import Difference, paired_difference
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.stats import majority

NONE_OF_OTHERS = "None of the other options"
WAS = "was"  # in the metadata of a changed question: the letter that each option had before, in the order of letters

_QUANTITY = r"(?:all|none|any|both|neither|either|each(?!\s+other\b)|two|three|one|some|most|every\s*one)"
_OTHERS = (
    r"(?:above|below|others?|these|those|them|following|preceding|previous|options?|choices?|answers?|alternatives?)"
)
_LETTER = r"\(?[A-Ja-j]\)?"
REFERS = re.compile(
    rf"\b{_QUANTITY}\s+(?:of\s+)?(?:the\s+|other\s+)?{_OTHERS}\b"
    r"|\b(?:the\s+above|above\s+(?:options?|choices?|answers?|statements?)|mentioned\s+above|above\s*mentioned)\b"
    rf"|\b(?:options?|choices?|answers?)\s+{_LETTER}(?![\w'])"
    rf"|^\W*(?:(?:both|only|either|neither|same\s+as)\s+)?{_LETTER}(?:\s*(?:,|and|or|nor|&|/|\+)\s*{_LETTER})+"
    r"(?:\s+(?:only|both|above|are\b.*|is\b.*))?\W*$"
    rf"|^\W*(?:both|only|same\s+as|all\s+except|all\s+but)\s+{_LETTER}\W*$"
    r"|^\W*(?:all|none|both|neither|any|either)(?:\s+(?:are|is)\s+(?:correct|true|false|wrong|right|incorrect))?\W*$",
    re.IGNORECASE,
)


def refers_to_others(option: str) -> bool:
    """Whether an option speaks of other options, so that it means something else beside others or in another place."""
    return REFERS.search(option) is not None


def shuffled(question: Question, random_: random.Random) -> Question:
    order = _moved(len(question.options), random_)
    return _reordered(question, order)


def relabelled(question: Question, random_: random.Random) -> Question:
    moved = _reordered(question, _moved(len(question.options), random_))
    letters = dict(zip(moved.metadata[WAS], moved.letters, strict=True))  # before → now
    return replace(moved, metadata=moved.metadata | {"order": "".join(letters[one] for one in question.letters)})


def none_of_others(question: Question, random_: random.Random) -> Question:
    wrong = [place for place, letter in enumerate(question.letters) if letter != question.answer]
    options = list(question.options)
    options[random_.choice(wrong)] = NONE_OF_OTHERS
    return replace(question, options=tuple(options))


CHANGES: dict[str, Callable[[Question, random.Random], Question]] = {
    "shuffled": shuffled,
    "relabelled": relabelled,
    "none_of_others": none_of_others,
}


def changed(question: Question, change: str, seed: int) -> Question:
    """The question after a change of CHANGES; itself where an option speaks of others, or where it has no options."""
    if not question.options or any(refers_to_others(option) for option in question.options):
        return question
    digest = hashlib.sha256(f"{change}\x1f{seed}\x1f{question.id}".encode()).digest()
    return CHANGES[change](question, random.Random(int.from_bytes(digest[:8])))


def _moved(count: int, random_: random.Random) -> list[int]:
    """An order in which no option has the place that it had (Sattolo's algorithm: one cycle)."""
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = random_.randrange(i)
        order[i], order[j] = order[j], order[i]
    return order


def _reordered(question: Question, order: Sequence[int]) -> Question:
    """The option at `order[i]` gets the i-th letter."""
    was = "".join(LETTERS[place] for place in order)
    return replace(
        question,
        options=tuple(question.options[place] for place in order),
        answer=LETTERS[was.index(question.answer)],
        metadata=question.metadata | {WAS: was},
    )


@dataclass(frozen=True)
class Robustness:
    """What a change did to a result.

    Attributes:
        difference: of the accuracy, on all questions.
        unchanged: questions that stayed as they were.
        moved: questions whose first answer's option got another letter, and that were answered again.
        by_letter, by_text: of those, how many answers kept the letter, and how many the option.
    """

    difference: Difference
    unchanged: int
    moved: int
    by_letter: int
    by_text: int


def compare_changed(
    plain: EvaluationResult, other: EvaluationResult, questions: Sequence[Question], asked: Mapping[str, Question]
) -> Robustness:
    """Compares a result on changed questions with the plain one; of several samples, the majority answers are followed.

    Args:
        questions: as they were, in the order of both results.
        asked: what was asked instead, by id.
    """
    before = {grade.id: grade for grade in plain.grades}
    after = {grade.id: grade for grade in other.grades}
    moved = by_letter = by_text = 0
    for question in questions:
        was = asked[question.id].metadata.get(WAS)
        first, second = majority(before[question.id].answers), majority(after[question.id].answers)
        if was is None or first is None or second is None:
            continue
        moved += 1
        by_letter += second == first
        by_text += was[LETTERS.index(second)] == first
    ids = [question.id for question in questions]
    difference = paired_difference([score(before[id]) for id in ids], [score(after[id]) for id in ids])
    same = sum(asked[question.id] == question for question in questions)
    return Robustness(difference, same, moved, by_letter, by_text)
