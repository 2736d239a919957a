"""From responses to grades, one question at a time, and the set-wise protocol that cannot be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from alphamed_nemo.answers.numeric import extract_value
from alphamed_nemo.answers.options import choices_of
from alphamed_nemo.answers.protocols import PROTOCOLS, extractor
from alphamed_nemo.config.choices import EvaluationProtocol, names
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.stats import majority

FIRST_OR_LAST = "first_or_last"
EVERY = 500  # questions from one report of progress to the next
Progress = Callable[[int, int], None]  # questions done, questions in all
# Metadata of questions by which accuracy is told apart (evaluation/breakdown.py).
TRAITS = ("body_system", "question_type", "task", "subject", "category", "field", "difficulty", "step", "calculator")
EVALUATION_PROTOCOLS = names(EvaluationProtocol)


class Grade(msgspec.Struct, frozen=True, gc=False):
    """One question's responses, graded.

    Attributes:
        id, dataset, level, key: the question's.
        answers: letter that each response states, None where it states none; empty where nothing was asked. Where a
            value is asked for: the key if the stated one is right, so that right values agree in a majority; else it.
        options: how many the question has, 0 where it asks for a value; None in files of versions that did not record
            it.
        words: of the question with its context and options; None in files of versions that did not record it.
        traits: what the source says of the question, those of TRAITS.
    """

    id: str
    dataset: str
    level: int | None
    key: str
    answers: tuple[str | None, ...]
    options: int | None = None
    words: int | None = None
    traits: dict[str, str] = {}

    @property
    def correct(self) -> tuple[bool, ...]:
        """An unanswered response is wrong; so is a question without any response."""
        key = self.key
        return tuple([answer == key for answer in self.answers]) or (False,)

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
    metadata = question.metadata
    return Grade(
        question.id,
        question.dataset,
        question.level,
        question.answer,
        tuple(_letters(question, texts, protocol) if question.options else _values(question, texts, protocol)),
        len(question.options),
        " ".join((question.context, question.stem, *question.options)).strip().count(" ") + 1,
        {name: str(metadata[name]) for name in TRAITS if name in metadata} if metadata else {},
    )


def _letters(question: Question, texts: Sequence[str], protocol: str) -> list[str | None]:
    extract, choices = extractor(protocol), choices_of(question.options)
    return [extract(text, choices) for text in texts]


def _values(question: Question, texts: Sequence[str], protocol: str) -> list[str | None]:
    value = question.value
    assert value is not None, "a question without options asks for a value"
    stated = [extract_value(text, value.kind, protocol) for text in texts]
    return [question.answer if one is not None and value.accepts(one) else one for one in stated]


def grade_set(
    questions: Sequence[Question],
    texts: Mapping[str, Sequence[str]],
    protocol: str,
    on_progress: Progress | None = None,
) -> list[Grade]:
    """Grades of a whole set; a question without responses in `texts` stays in it, and is wrong.

    `first_or_last` takes, for each data set, whichever of first and last match is right more often, as HuatuoGPT-o1's
    script reports it. Unlike that script nothing is dropped from the denominator.
    """
    check_protocol(protocol)
    if protocol in PROTOCOLS:
        return [grade(question, texts.get(question.id, ()), protocol) for question in _reported(questions, on_progress)]
    graded = {
        name: [grade(question, texts.get(question.id, ()), name) for question in _reported(questions, on_progress)]
        for name in ("first_match", "last_match")
    }
    right: dict[str, dict[str, int]] = defaultdict(dict)
    for name, grades in graded.items():
        for one in grades:
            right[one.dataset][name] = right[one.dataset].get(name, 0) + sum(one.correct)
    better = {dataset: max(counts, key=counts.__getitem__) for dataset, counts in right.items()}
    return [graded[better[question.dataset]][i] for i, question in enumerate(questions)]


def _reported(questions: Sequence[Question], on_progress: Progress | None) -> Iterator[Question]:
    """The questions, while `on_progress` is told how many are done."""
    for done, question in enumerate(questions, start=1):
        yield question
        if on_progress and (done % EVERY == 0 or done == len(questions)):
            on_progress(done, len(questions))
