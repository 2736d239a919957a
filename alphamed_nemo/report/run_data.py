"""What a run folder holds, read into plain data. Only files that must be there are required; the rest may be absent."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphamed_nemo.config.files import read_yaml
from alphamed_nemo.config.run_folder import RunFolder, by_step
from alphamed_nemo.config.scrub import scrub
from alphamed_nemo.data.text_files import read_text
from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.stats import McNemar, mcnemar
from alphamed_nemo.evaluation.suite_results import read_suites

PARTS, REWARD, CORRECT = "reward/", "reward/mean", "reward/correct"  # metrics
ROLES = ("base", "forced", "other", "trained")  # their order in tables
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """A question of data/labelled.jsonl.

    Attributes:
        dataset: the set it is from.
        level: 1 is the easiest.
        tokens: length of the question alone, or None.
        correct: right answers of the base model, or None.
        samples: number of samples that were graded, or None.
    """

    dataset: str
    level: int
    tokens: int | None = None
    correct: int | None = None
    samples: int | None = None


@dataclass
class Evaluation:
    """One row of the before-and-after table, from eval/<label>.json.

    Attributes:
        label: row name.
        accuracy: share of questions answered correctly, 0..1.
        n: questions, or None where the file does not say.
        interval: 95% interval of the accuracy, or None.
        unanswered: share of responses without an answer, or None.
        mean_length: tokens per response, or None.
        reasoned: share of responses that reason before they answer, or None.
        forced: the responses were made to begin with a reasoning prefix.
        model: what was asked.
        by_dataset: the same for each data set: name → (accuracy, interval or None, n).
        correct: question id → whether its answer is right; empty where the file does not say.
        guessing: the accuracy of guessing, on average, 0..1, or None.
    """

    label: str
    accuracy: float
    n: int | None = None
    interval: tuple[float, float] | None = None
    unanswered: float | None = None
    mean_length: float | None = None
    reasoned: float | None = None
    forced: bool = False
    model: str = ""
    by_dataset: dict[str, tuple[float, tuple[float, float] | None, int | None]] = field(default_factory=dict)
    correct: dict[str, bool] = field(default_factory=dict)
    guessing: float | None = None

    @property
    def role(self) -> str:
        """What the row is in the before-and-after story: base, forced, other or trained, by its label."""
        label = self.label.lower()
        if self.forced:
            return "forced"
        if "base" in label or label == "before":
            return "base"
        return "trained" if label in ("hf", "after") or "trained" in label else "other"


@dataclass(frozen=True)
class Paired:
    """McNemar's exact test of two rows on the same questions."""

    first: str
    second: str
    test: McNemar

    def sentence(self) -> str:
        """For a person: how many questions only one of them has right, and the p-value of "equally good"."""
        p = "p < 0.0001" if self.test.p < 1e-4 else f"p = {self.test.p:.2g}"
        return (
            f"On the same questions, “{self.first}” alone was right on {self.test.only_first} and "
            f"“{self.second}” alone on {self.test.only_second} ({p}, McNemar's exact test)."
        )


@dataclass
class RunData:
    """One run, ready to be shown.

    Attributes:
        name: the folder's name.
        metrics: rows of metrics.jsonl in order of steps, one per step.
        evaluations: the base model first, then the base made to reason, then the rest by name, the trained model last.
        suites: each complete suite as one row, whose data sets are the suite's.
        labelled: the questions that have a difficulty level.
        samples: step -> rows of samples/step_<n>.jsonl, the first and the last step only.
        config: nested settings, secrets left out.
        summary: summary.json.
    """

    name: str
    metrics: list[dict] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    suites: list[Evaluation] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    samples: dict[int, list[dict]] = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)

    @property
    def reward_parts(self) -> list[str]:
        """Metrics of the parts of a weighted reward, the rule's among them, in their order."""
        names = dict.fromkeys(name for row in self.metrics for name in row if name.startswith(PARTS))
        return [name for name in names if name != REWARD]

    @property
    def weighted(self) -> bool:
        """The reward is a weighted sum of functions, not the share of right answers."""
        return CORRECT in self.reward_parts

    @property
    def right(self) -> str:
        """The metric that is the share of right answers."""
        return CORRECT if self.weighted else REWARD

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, where it was recorded."""
        rows = [(row["step"], row[name]) for row in self.metrics if row.get(name) is not None]
        return [float(step) for step, _ in rows], [float(value) for _, value in rows]

    @property
    def levels(self) -> dict[int, int]:
        """Questions by difficulty level."""
        counts = Counter(question.level for question in self.labelled)
        return {level: counts[level] for level in sorted(counts)}

    @property
    def paired(self) -> list[Paired]:
        """The trained model against each other row that was asked the same questions."""
        trained, found = self.trained, []
        for other in self.evaluations:
            if trained and other is not trained and trained.correct and trained.correct.keys() == other.correct.keys():
                ids = list(trained.correct)
                test = mcnemar([trained.correct[id] for id in ids], [other.correct[id] for id in ids])
                found.append(Paired(trained.label, other.label, test))
        return found

    @property
    def guessing(self) -> float | None:
        """The accuracy of guessing, where all rows of the table say the same."""
        found = {row.guessing for row in self.evaluations}
        return found.pop() if len(found) == 1 else None

    @property
    def base(self) -> Evaluation | None:
        return next((row for row in self.evaluations if row.role == "base"), None)

    @property
    def trained(self) -> Evaluation | None:
        return next((row for row in reversed(self.evaluations) if row.role in ("trained", "other")), None)


def read_run(run_dir: Path) -> RunData:
    """Everything that the report shows of a run.

    Raises:
        ValueError: the folder does not exist, holds nothing of a run, or a file in it cannot be read; names the file.
    """
    folder = RunFolder(Path(run_dir))
    if not folder.root.is_dir():
        raise ValueError(f"run folder {folder.root}: found nothing there; expected the folder of a run")
    run = RunData(
        name=folder.root.resolve().name,
        metrics=read_metrics(folder.metrics),
        evaluations=read_evaluations(folder.eval),
        suites=[row for suite in read_suites(folder.eval) if (row := parse_evaluation(suite.to_json(), "suite"))],
        labelled=read_labelled(folder.labelled),
        samples=read_samples(folder.samples),
        config=scrub(read_yaml(folder.config) or {}) if folder.config.exists() else {},
        summary=read_object(folder.summary) if folder.summary.exists() else {},
    )
    if not (run.metrics or run.evaluations or run.suites or run.labelled):
        raise ValueError(
            f"run folder {folder.root}: found neither metrics.jsonl nor eval/*.json nor data/labelled.jsonl; "
            "there is nothing to report yet"
        )
    return run


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it or write it again") from error


def read_object(path: Path) -> dict:
    """Raises: ValueError: the file holds no JSON object; names it."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}, expected an object; delete it or write it again")
    return found


def read_json_lines(path: Path) -> list[tuple[int, dict]]:
    """(line, row) of a JSON-lines file. A last line that is not complete is still being written, or was cut short by a
    full disk or a kill: it is left out, with a warning.

    Raises:
        ValueError: a line is no JSON object, or no UTF-8; names the file and the line.
    """
    if not path.exists():
        return []
    rows = []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                log.warning("%s, line %d: not complete, left out", path, number)
                continue
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: found {type(row).__name__}, expected an object")
        rows.append((number, row))
    return rows


def read_metrics(path: Path) -> list[dict]:
    """One row per step, with what its validation found; where a resumed run wrote a step again, the later values.

    Raises:
        ValueError: a row has no step, or a metric that is no number; names the file and the line.
    """
    by_step = {}
    for number, row in read_json_lines(path):
        step = row.get("step")
        if not isinstance(step, int):
            raise ValueError(f"{path}, line {number}: step: found {step!r}, expected a whole number")
        for name, value in row.items():
            if not isinstance(value, int | float | None):
                raise ValueError(f"{path}, line {number}: {name}: found {value!r}, expected a number")
        by_step[step] = by_step.get(step, {}) | row
    return [by_step[step] for step in sorted(by_step)]


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Raises: ValueError: a file holds an accuracy, and something else than evaluate writes; names the file."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        try:
            rows.append(parse_evaluation(record, path.stem))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: not a result of evaluate ({type(error).__name__}: {error})") from error
    return sorted((row for row in rows if row is not None), key=lambda row: (ROLES.index(row.role), row.label))


def parse_evaluation(record: dict, stem: str) -> Evaluation | None:
    """One eval/<label>.json; None where it holds no accuracy (a file of something else)."""
    if not isinstance(record, dict) or "accuracy" not in record:
        return None
    n = record.get("n")
    unanswered = record.get("unanswered")
    if isinstance(unanswered, int) and n:  # a count; a float is a share already
        unanswered = unanswered / n
    label = str(record.get("label") or stem)
    return Evaluation(
        label=label,
        accuracy=float(record["accuracy"]),
        n=n,
        interval=parse_interval(record),
        unanswered=unanswered,
        mean_length=record.get("mean_length"),
        reasoned=record.get("reasoned_ratio"),
        forced=bool(record.get("force_prefix")) or "force" in label.lower(),
        model=str(record.get("model", "")),
        by_dataset={
            name: (float(part["accuracy"]), parse_interval(part), part.get("n"))
            for name, part in (record.get("by_dataset") or {}).items()
        },
        correct=correct_by_question(record),
        guessing=record.get("guessing"),
    )


def correct_by_question(record: dict) -> dict[str, bool]:
    """Question id → whether its answer is right, by the majority of its samples; empty for a file without questions."""
    found = {}
    for question in record.get("questions") or []:
        answers = tuple(response.get("answer") for response in question.get("responses", []))
        found[question["id"]] = Grade(question["id"], "", None, question["key"], answers).majority_correct
    return found


def parse_interval(record: dict) -> tuple[float, float] | None:
    interval = record.get("interval")
    return (float(interval[0]), float(interval[1])) if interval else None


def read_labelled(path: Path) -> list[Labelled]:
    found = []
    for number, row in read_json_lines(path):
        if (level := row.get("level")) is None:
            continue
        metadata = row.get("metadata") or {}
        if not isinstance(level, int) or not isinstance(metadata, dict):
            raise ValueError(f"{path}, line {number}: found level {level!r}, expected a whole number, and metadata")
        counts = (metadata.get(name) for name in ("tokens", "correct", "samples"))
        found.append(Labelled(str(row.get("dataset", "")), level, *counts))
    return found


def read_samples(folder: Path) -> dict[int, list[dict]]:
    paths = by_step(folder, ".jsonl")
    if not paths:
        return {}
    ends = sorted({min(paths), max(paths)})
    return {step: [row for _, row in read_json_lines(paths[step])] for step in ends}
