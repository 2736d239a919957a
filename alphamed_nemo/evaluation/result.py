"""The result of an evaluation: its numbers, its file and its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.stats import McNemar, average_at_n, mcnemar, wilson
from alphamed_nemo.evaluation.table_text import EMPTY, percent, table_of, with_interval


@dataclass(frozen=True)
class Summary:
    """Numbers of a set of questions; every question is in the denominator, answered or not.

    Attributes:
        n: questions.
        samples: responses per question, at most.
        accuracy: the mean over questions of the share of their responses that are right, 0..1.
        interval: Wilson's 95% interval of it, over n questions.
        majority: maj@samples, 0..1; equals accuracy where samples is 1.
        unanswered: share of the responses that state no answer; they are counted as wrong. A question without any
            response counts as one.
        unanswered_count: how many those are.
        responses: of how many.
        guessing: the accuracy of guessing, on average, 0..1; None where a question's number of options is not known.
    """

    n: int
    samples: int
    accuracy: float
    interval: tuple[float, float]
    majority: float
    unanswered: float
    unanswered_count: int
    responses: int
    guessing: float | None


def summarize(grades: Sequence[Grade], samples: int) -> Summary:
    """Numbers of `grades`, whose questions may have unequal numbers of responses, at most `samples`.

    Raises:
        ValueError: there are none.
    """
    correct = [grade.correct for grade in grades]
    accuracy, n = average_at_n(correct), len(grades)
    answered = sum(len(grade.answers) - grade.answers.count(None) for grade in grades)
    responses = sum(map(len, correct))
    options = [grade.options for grade in grades if grade.options]
    return Summary(
        n=n,
        samples=samples,
        accuracy=accuracy,
        interval=wilson(min(accuracy * n, n), n),
        majority=sum(grade.majority_correct for grade in grades) / n,
        unanswered=1 - answered / responses,
        unanswered_count=responses - answered,
        responses=responses,
        guessing=sum(1 / count for count in options) / n if len(options) == n else None,
    )


@dataclass
class EvaluationResult:
    """One model on one list of questions.

    Attributes:
        label: row name.
        settings: what the result depends on, as recorded in its file (model, protocol, sampling, ...).
        grades: one per question, in the order asked.
        rows: question id → {"id", "responses": [{"text", "length", "truncated"}]}.
        reasoned_ratio: share of responses that reason before they answer.
        mean_length: tokens per response (characters for saved responses whose length is not known), or None.
        truncated_ratio: share of responses cut off by the length limit.
        date: when the last response was graded, ISO, UTC; empty in files of versions that did not record it.
    """

    label: str
    settings: dict
    grades: list[Grade]
    rows: dict[str, dict] = field(default_factory=dict)
    reasoned_ratio: float | None = None
    mean_length: float | None = None
    truncated_ratio: float | None = None
    date: str = ""

    @property
    def samples(self) -> int:
        return self.settings["samples"]

    @property
    def summary(self) -> Summary:
        return summarize(self.grades, self.samples)

    @property
    def accuracy(self) -> float:
        return self.summary.accuracy

    @property
    def by_dataset(self) -> dict[str, Summary]:
        return self._by(lambda grade: grade.dataset)

    @property
    def by_level(self) -> dict[int, Summary]:
        """Empty where the questions have no levels."""
        return self._by(lambda grade: grade.level) if all(g.level is not None for g in self.grades) else {}

    def _by(self, key) -> dict:
        groups: dict = {}
        for grade in self.grades:
            groups.setdefault(key(grade), []).append(grade)
        return {name: summarize(groups[name], self.samples) for name in sorted(groups)}

    def compare(self, other: EvaluationResult) -> McNemar:
        """McNemar's test against another result on the same questions; with several samples, on their majority.

        Raises:
            ValueError: the questions differ.
        """
        mine = {grade.id: grade.majority_correct for grade in self.grades}
        theirs = {grade.id: grade.majority_correct for grade in other.grades}
        if mine.keys() != theirs.keys():
            raise ValueError(
                f"{self.label} and {other.label} cannot be compared: {len(mine.keys() - theirs.keys())} questions are "
                f"only in the first, {len(theirs.keys() - mine.keys())} only in the second"
            )
        return mcnemar([mine[id] for id in mine], [theirs[id] for id in mine])

    def to_json(self) -> dict:
        """The content of eval/<label>.json."""
        summary = self.summary
        responses = [
            {
                "id": grade.id,
                "dataset": grade.dataset,
                "level": grade.level,
                "key": grade.key,
                "options": grade.options,
                "words": grade.words,
                "traits": grade.traits,
                "responses": [
                    {**response, "answer": answer, "correct": answer == grade.key}
                    for response, answer in zip(self.rows[grade.id]["responses"], grade.answers, strict=False)
                ]
                if grade.id in self.rows
                else [],
            }
            for grade in self.grades
        ]
        return {
            "label": self.label,
            "date": self.date,
            **{key: self.settings.get(key, "") for key in ("model", "protocol", "force_prefix")},
            **_numbers(summary),
            "reasoned_ratio": self.reasoned_ratio,
            "mean_length": self.mean_length,
            "truncated_ratio": self.truncated_ratio,
            "by_dataset": {name: _numbers(part) for name, part in self.by_dataset.items()},
            "by_level": {str(level): _numbers(part) for level, part in self.by_level.items()},
            "settings": self.settings,
            "questions": responses,
        }

    def write(self, path: Path) -> None:
        """Writes the file in one step: it is never seen half-written."""
        with whole_file(path) as part:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(self.to_json()), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> EvaluationResult:
        """A result from its file.

        Raises:
            ValueError: the file is no evaluation.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            questions = record["questions"]
            grades = [
                Grade(
                    q["id"],
                    q["dataset"],
                    q["level"],
                    q["key"],
                    tuple(response["answer"] for response in q["responses"]),
                    q.get("options"),
                    q.get("words"),
                    q.get("traits", {}),
                )
                for q in questions
            ]
            extra = {key: record[key] for key in ("reasoned_ratio", "mean_length", "truncated_ratio")}
            rows = {
                q["id"]: {"id": q["id"], "responses": [_response(r) for r in q["responses"]]}
                for q in questions
                if q["responses"]
            }
            return cls(record["label"], record["settings"], grades, rows, **extra, date=record.get("date", ""))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the file of an evaluation ({type(error).__name__} {error})") from error


def _response(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("answer", "correct")}


def _numbers(summary: Summary) -> dict:
    return {**vars(summary), "interval": list(summary.interval)}


def markdown_table(results: Sequence[EvaluationResult]) -> str:
    """One row a result: accuracy with its 95% interval for each data set, and a column of unanswered responses."""
    datasets = sorted({name for result in results for name in result.by_dataset})
    head = ["model", "protocol", *datasets, "unanswered", "mean length"]
    rows: list[list[str]] = []
    if results and results[0].summary.guessing is not None:
        parts = results[0].by_dataset
        chances = [percent(parts[name].guessing) if name in parts else EMPTY for name in datasets]
        rows.append(["guessing", EMPTY, *chances, EMPTY, EMPTY])
    for result in results:
        parts, summary = result.by_dataset, result.summary
        cells = [_cell(parts.get(name)) for name in datasets]
        length = EMPTY if result.mean_length is None else f"{result.mean_length:.0f}"
        unanswered = f"{summary.unanswered_count} of {summary.responses}"
        name = result.label.replace("|", "\\|")
        rows.append([name, result.settings["protocol"], *cells, unanswered, length])
    return table_of(head, rows, texts=2)


def _cell(part: Summary | None) -> str:
    if part is None:
        return EMPTY
    text = f"{with_interval(part.accuracy, part.interval)} (n = {part.n})"
    if part.samples == 1:
        return text
    samples = f"{part.samples}{' at most' if part.responses < part.n * part.samples else ''}"
    return f"{text} avg@{samples}, {percent(part.majority)} maj@{samples}"
