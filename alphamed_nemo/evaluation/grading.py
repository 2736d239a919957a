"""From responses to grades, one question at a time, and the set-wise protocol that cannot be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from alphamed_nemo.answers.protocols import PROTOCOLS, extract_answer
from alphamed_nemo.config.choices import EvaluationProtocol, names
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.stats import majority

FIRST_OR_LAST = "first_or_last"
EVALUATION_PROTOCOLS = names(EvaluationProtocol)


@dataclass(frozen=True)
class Grade:
    """One question's responses, graded.

    Attributes:
        id, dataset, level, key: the question's.
        answers: letter that each response states, None where it states none; empty where nothing was asked.
        options: how many the question has; None in files of versions that did not record it.
    """

    id: str
    dataset: str
    level: int | None
    key: str
    answers: tuple[str | None, ...]
    options: int | None = None

    @cached_property
    def correct(self) -> tuple[bool, ...]:
        """An unanswered response is wrong; so is a question without any response."""
        return tuple(answer == self.key for answer in self.answers) or (False,)

    @property
    def majority_correct(self) -> bool:
        return majority(self.answers) == self.key


def check_protocol(protocol: str) -> None:
    if protocol not in EVALUATION_PROTOCOLS:
        raise ValueError(f"evaluate.protocol={protocol!r}: expected one of {', '.join(EVALUATION_PROTOCOLS)}")


def single_protocol(protocol: str) -> str:
    """The protocol that one response alone can be graded by; the last match stands in for first_or_last."""
    return "last_match" if protocol == FIRST_OR_LAST else protocol


def grade(question: Question, texts: Sequence[str], protocol: str) -> Grade:
    """Grades of one question's responses by a protocol of answers/protocols.py."""
    answers = tuple(extract_answer(text, question.options, protocol) for text in texts)
    return Grade(question.id, question.dataset, question.level, question.answer, answers, len(question.options))


def grade_set(questions: Sequence[Question], texts: Mapping[str, Sequence[str]], protocol: str) -> list[Grade]:
    """Grades of a whole set; a question without responses in `texts` stays in it, and is wrong.

    `first_or_last` takes, for each data set, whichever of first and last match is right more often, as HuatuoGPT-o1's
    script reports it. Unlike that script nothing is dropped from the denominator.
    """
    check_protocol(protocol)
    if protocol in PROTOCOLS:
        return [grade(question, texts.get(question.id, ()), protocol) for question in questions]
    graded = {
        name: [grade(question, texts.get(question.id, ()), name) for question in questions]
        for name in ("first_match", "last_match")
    }
    right: dict[str, dict[str, int]] = defaultdict(dict)
    for name, grades in graded.items():
        for one in grades:
            right[one.dataset][name] = right[one.dataset].get(name, 0) + sum(one.correct)
    better = {dataset: max(counts, key=counts.__getitem__) for dataset, counts in right.items()}
    return [graded[better[question.dataset]][i] for i, question in enumerate(questions)]
