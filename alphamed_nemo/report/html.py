"""The report of a run, and a comparison of several: self-contained HTML pages, made from run folders alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alphamed_nemo.config import ReportConfig
from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.report.figures import (
    Figure,
    accuracies,
    benchmarks,
    compared,
    difficulty,
    effective_by_level,
    question_length,
    training_figures,
)
from alphamed_nemo.report.responses import remove_others, write_responses
from alphamed_nemo.report.run_data import CORRECT, RunData, read_run
from alphamed_nemo.report.scale import duration, number
from alphamed_nemo.report.watch import notices

NO_BREAK = "\u2011"  # a hyphen at which no line ends, for 2.1e-6
CARDS = 4  # sample responses shown of the first and of the last step
LONGEST_RESPONSE = 6000  # characters of a response on a card
BOXED = re.compile(r"\\boxed\{[^{}]*\}")


@dataclass
class Tile:
    """One large number at the top."""

    name: str
    value: str
    note: str = ""


def build_report(run_dir: Path, responses_mb: int = ReportConfig.responses_mb) -> Path:
    """Write report/index.html of a run, and the page of its responses, and return the first's path. Reads only the run
    folder, and `grpo.questions`.

    Args:
        run_dir: the run folder.
        responses_mb: megabytes of texts on the page of responses; 0: no such page.

    Raises:
        ValueError: the folder holds nothing to report, or a file in it cannot be read.
    """
    folder = RunFolder(Path(run_dir))
    run = read_run(folder.root)
    responses = write_responses(folder, run.config.get("grpo", {}).get("questions", ""), responses_mb)
    if responses:
        write_page(folder.responses, "responses.html", title=f"Responses of {run.name}", page=responses)
    remove_others(folder, responses.build if responses else None)
    return write_page(
        folder.report,
        "run.html",
        responses=responses,
        title=run.name,
        run=run,
        headline=headline(run),
        tiles=tiles(run),
        accuracy=accuracies(run.evaluations, run.guessing),
        figures=training_figures(run),
        data=[figure for figure in (difficulty(run), effective_by_level(run), question_length([run])) if figure],
        samples=paired_samples(run),
        notices=notices(run.metrics),
        stages=stages(run),
        settings=settings(run.config),
    )


def build_comparison(run_dirs: list[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side: curves, accuracies, and the settings that differ.

    Args:
        run_dirs: run folders, in the order shown; names must differ.
        out: the HTML file to write.

    Raises:
        ValueError: fewer than two runs, two of the same name, or a folder with nothing in it.
    """
    runs = [read_run(Path(path)) for path in run_dirs]
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a comparison needs two runs or more with different folder names, found {names}")
    rows = [(run, row) for run in runs for row in run.evaluations]
    labelled = [replace(row, label=f"{run.name} · {row.label}") for run, row in rows]
    return write_page(
        Path(out),
        "comparison.html",
        title="Comparison of " + ", ".join(names),
        runs=runs,
        accuracy=accuracies(labelled),
        evaluations=labelled,
        benchmarks=benchmarks(runs),
        figures=compared(runs),
        lengths=question_length(runs),
        differing=differing_settings(runs),
    )


def headline(run: RunData) -> str:
    """The run's result in one sentence, of what is known."""
    base, trained = run.base, run.trained
    count = run.metrics[-1]["step"] if run.metrics else 0
    steps = f"{count} GRPO step{'s' if count != 1 else ''}" if count else "training"
    if base and trained:
        text = f"Accuracy went from {share(base.accuracy)} to {share(trained.accuracy)}"
        if trained.n:
            text += f" on {trained.n:,} held-out questions"
        text += f" in {steps}"
        if base.mean_length and trained.mean_length:
            text += f"; responses went from {base.mean_length:.0f} to {trained.mean_length:.0f} tokens"
        return text + "."
    _, rewards = run.series("reward/mean")
    if rewards:
        kind = "Mean weighted reward" if run.weighted else "Mean reward"
        return f"{kind} went from {rewards[0]:.2f} to {rewards[-1]:.2f} in {steps}."
    return f"{len(run.evaluations)} evaluations." if run.evaluations else "Questions labelled by difficulty."


def tiles(run: RunData) -> list[Tile]:
    """The numbers that a reader looks for first."""
    found = []
    if run.base and run.trained:
        gain = 100 * (run.trained.accuracy - run.base.accuracy)
        found.append(
            Tile("Accuracy", share(run.trained.accuracy), f"{gain:+.1f} points from {share(run.base.accuracy)}")
        )
    for metric, name, form in (
        ("reward/mean", "Mean weighted reward" if run.weighted else "Mean reward", "{:.2f}"),
        (CORRECT, "Correct answers", "{:.0%}"),
        ("effective_query_ratio", "Effective queries", "{:.0%}"),
        ("response_length/mean", "Response length", "{:.0f}"),
    ):
        _, values = run.series(metric)
        if values:
            note = f"{form.format(values[0])} at the first step"
            if metric == "effective_query_ratio":
                note += "; expected to fall as questions are learned"
            found.append(Tile(name, form.format(values[-1]), note))
    _, errors = run.series("token_mult_prob_error")
    if errors:
        limit = run.config.get("grpo", {}).get("max_token_mult_prob_error") or 0
        _, limits = run.series("logprob_difference_limit")
        note = "largest between trainer and rollout engine"
        if limit > 1 or limits:
            note += f"; limit {number(limit - 1 if limit > 1 else min(limits))}".replace("-", NO_BREAK)
        found.append(Tile("Mismatch", number(max(0.0, *(error - 1 for error in errors))), note))
    return found


def paired_samples(run: RunData) -> list[tuple[int, dict]]:
    """(step, row) of responses of the first and the last step, taking turns so that they stand side by side.

    It is the first response to each of the first few questions: the first, not the best. Questions that both steps
    asked come before others.
    """
    columns = []
    for step, rows in run.samples.items():
        first: dict[str, dict] = {}
        for row in rows:
            first.setdefault(str(row.get("question_id", "")), row)
        columns.append((step, first))
    if not columns:
        return []
    common = [question for question in columns[0][1] if all(question in first for _, first in columns)]
    shown = []
    for step, first in columns:
        order = common + [question for question in first if question not in common]
        shown.append([(step, first[question]) for question in order[:CARDS]])
    return [card for row in zip_longest(*shown) for card in row if card is not None]


def stages(run: RunData) -> list[tuple[str, str, float]]:
    """(stage, duration, share of the whole) from summary.json."""
    seconds = {name: float(value) for name, value in (run.summary.get("stage_seconds") or {}).items()}
    whole = sum(seconds.values()) or 1.0
    return [(name, duration(value), value / whole) for name, value in seconds.items()]


def settings(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings by group; single values at the top level come under `general`."""
    groups = [(name, flat(values)) for name, values in config.items() if isinstance(values, dict) and values]
    general = [(name, shown(value)) for name, value in config.items() if not isinstance(value, dict)]
    return ([("general", general)] if general else []) + groups


def flat(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", shown(value)))
    return pairs


def shown(value: object) -> str:
    if value in ("", None, [], {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def differing_settings(runs: list[RunData]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) where the runs differ; names and paths of the run itself aside."""
    tables = [dict(flat(run.config)) for run in runs]
    keys = sorted({key for table in tables for key in table if not key.startswith("run.")})
    rows = [(key, [table.get(key, "–") for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def is_right(row: dict) -> bool:
    """Whether a sample's final answer is the key, whatever its reward."""
    return row["extracted"] == row["answer"] if {"extracted", "answer"} <= set(row) else bool(row.get("reward"))


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def response_markup(text: str) -> Markup:
    """A response, escaped, with its boxed answer marked."""
    cut = text if len(text) <= LONGEST_RESPONSE else text[:LONGEST_RESPONSE] + " …"
    return Markup(BOXED.sub(lambda match: f"<mark>{match.group()}</mark>", str(escape(cut))))


def figure_markup(figure: Figure) -> Markup:
    return Markup(figure.svg)


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("alphamed_nemo.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"share": share, "response": response_markup, "chart": figure_markup, "right": is_right}
    return environment


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Writes one of the package's templates, filled, and returns the path."""
    page = _templates().get_template(template).render(**values)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
    return path
