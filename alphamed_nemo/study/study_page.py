"""The page of a study, in the form of the paper's figures 3 to 5: accuracy by quantity, sources, or levels."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.report.figures import Figure
from alphamed_nemo.report.html import Tile, share, write_page
from alphamed_nemo.report.scale import number, padded_range, percent
from alphamed_nemo.report.svg import Series, intervals, line_chart
from alphamed_nemo.study.findings import between, limits, points, shows
from alphamed_nemo.study.outcome import StudyOutcome, VariantOutcome, share_interval

TITLES = {
    "quantity": "Quantity: accuracy by number of questions",
    "diversity": "Diversity: accuracy by sources of questions",
    "difficulty": "Difficulty: accuracy by levels of questions",
}
SEED_COLOUR, BASE_COLOUR = 8, 8
MISSING = "–"


def write_study(outcome: StudyOutcome) -> Path:
    """Writes the study's report/index.html and returns its path."""
    return write_page(
        RunFolder.of(outcome.cfg).report,
        "study.html",
        title=TITLES[outcome.cfg.study.name],
        headline=headline(outcome),
        tiles=tiles(outcome),
        figure=figure(outcome),
        variants=variant_rows(outcome),
        comparisons=comparison_rows(outcome),
        shows=shows(outcome),
        limits=limits(outcome),
        names=[each.variant.name for each in outcome.finished],
        datasets=dataset_rows(outcome),
        level_names=[f"L{level}" for level in levels_of(outcome)],
        levels=level_rows(outcome),
        runs=run_rows(outcome),
    )


def headline(outcome: StudyOutcome) -> str:
    """The study in one sentence, without a judgement."""
    if not outcome.finished:
        return f"No run is finished yet, of {outcome.planned}."
    means = [f"{share(variant.mean)} with {_quoted(variant)}" for variant in outcome.finished]
    shown = means if len(means) < 3 else [means[0], means[-1]]
    base = f"; {share(outcome.base.accuracy)} before training" if outcome.base else ""
    return f"Mean accuracy on {outcome.questions:,} held-out questions: {' and '.join(shown)}{base}."


def _quoted(variant: VariantOutcome) -> str:
    return f"“{variant.variant.name}”"


def tiles(outcome: StudyOutcome) -> list[Tile]:
    grpo, seeds = outcome.cfg.grpo, outcome.cfg.study.seeds
    planned = f"{len(outcome.variants)} variants × {seeds} seed{'s' if seeds > 1 else ''}"
    batch = f"of {grpo.questions_per_step} questions × {grpo.samples_per_question} samples, the same for all"
    found = [
        Tile("Runs", f"{outcome.runs} of {outcome.planned}", planned),
        Tile("Compute of each run", f"{grpo.steps} step{'s' if grpo.steps > 1 else ''}", batch),
    ]
    if outcome.base:
        low, high = outcome.base.summary.interval
        found.append(Tile("Base model", share(outcome.base.accuracy), f"95% interval {share(low)} to {share(high)}"))
    return found


def figure(outcome: StudyOutcome) -> Figure | None:
    """The study's chart: lines for what is ordered, bars for sources."""
    if not outcome.finished:
        return None
    over = "whiskers are 95% intervals " + ("over seeds" if outcome.seeds > 1 else "over the questions, of one run")
    if outcome.cfg.study.name == "diversity":
        return bars(outcome, f"Mean over seeds; {over}. Each row adds a source to those above it.")
    words = "number of questions, on a logarithmic scale" if outcome.cfg.study.name == "quantity" else "levels"
    return curve(outcome, f"Accuracy on the held-out questions by {words}; {over}.")


def curve(outcome: StudyOutcome, note: str) -> Figure:
    """Means with whiskers, and every seed, by variant."""
    quantity, found = outcome.cfg.study.name == "quantity", outcome.finished
    places = [math.log2(each.variant.questions) if quantity else float(i) for i, each in enumerate(found)]
    names = {
        place: f"{each.variant.questions:,}" if quantity else each.variant.name
        for place, each in zip(places, found, strict=True)
    }
    ends = [each.interval for each in found]
    mean = Series("mean", places, [each.mean for each in found], 1)
    seeds = seed_series(found, places) if outcome.seeds > 1 else []
    marks = [(outcome.base.accuracy, "base model")] if outcome.base else []
    values = [end for interval in ends for end in interval] + [value for value, _ in marks]
    values += [value for line in seeds for value in line.y]
    low, high = padded_range(values)
    chart = line_chart(
        [mean, *seeds],
        TITLES[outcome.cfg.study.name],
        y_range=(max(0.0, low), min(1.0, high)),
        show=percent,
        marks=marks,
        x_label="training questions" if quantity else "levels",
        points=True,
        bounds=ends,
        names=names,
    )
    return Figure("Accuracy", note, chart, [("mean", 1), ("single seeds", SEED_COLOUR)] if seeds else [])


def seed_series(variants: list[VariantOutcome], places: list[float]) -> list[Series]:
    """The accuracy of each seed over the variants that it has finished."""
    found: dict[int, tuple[list[float], list[float]]] = {}
    for place, variant in zip(places, variants, strict=True):
        for run in variant.runs:
            for values, value in zip(found.setdefault(run.seed, ([], [])), (place, run.accuracy), strict=True):
                values.append(value)
    return [Series(f"seed {seed}", *each, SEED_COLOUR) for seed, each in sorted(found.items())]


def bars(outcome: StudyOutcome, note: str) -> Figure:
    """One row per variant, below the base model's."""
    rows = [("base model", outcome.base.accuracy, outcome.base.summary.interval, BASE_COLOUR)] if outcome.base else []
    rows += [(each.variant.name, each.mean, each.interval, 1) for each in outcome.finished]
    labels, values, bounds, colours = zip(*rows, strict=True)
    guessing = outcome.base.summary.guessing if outcome.base else None
    return Figure("Accuracy", note, intervals(labels, values, bounds, colours, note, guessing), [])


def variant_rows(outcome: StudyOutcome) -> list[tuple[str, ...]]:
    """The base model's rows, then: name, mean, interval, seeds, questions, passes, tokens per response."""
    rows = []
    for result in (outcome.base, *outcome.others):
        if result is not None:
            rows.append((result.label, share(result.accuracy), _between(result.summary.interval), *[MISSING] * 3))
            rows[-1] += (_tokens(result.mean_length),)
    for each in outcome.variants:
        if not each.runs:
            rows.append((each.variant.name, *[MISSING] * 2, "0", f"{each.variant.questions:,}", *[MISSING] * 2))
            continue
        lengths = [run.result.mean_length for run in each.runs if run.result.mean_length is not None]
        rows.append(
            (
                each.variant.name,
                share(each.mean),
                _between(each.interval),
                f"{len(each.runs)}",
                f"{each.fewest:,}",
                number(outcome.passes(each)),
                _tokens(fmean(lengths) if lengths else None),
            )
        )
    return rows


def comparison_rows(outcome: StudyOutcome) -> list[tuple[str, ...]]:
    """What with what, difference, interval, seeds, p, corrected p."""
    return [
        (
            f"{each.second} against {each.first}",
            points(each.difference),
            between(each),
            f"{each.seeds}",
            MISSING if each.p is None else number(each.p),
            MISSING if each.adjusted is None else number(each.adjusted),
        )
        for each in outcome.comparisons
    ]


def dataset_rows(outcome: StudyOutcome) -> list[tuple[str, ...]]:
    """Where the held-out questions are of several data sets: each with the mean and interval of every variant."""
    names = list(outcome.finished[0].by_dataset) if outcome.finished else []
    if len(names) < 2:
        return []
    return [(name, *(_cell(each.by_dataset[name]) for each in outcome.finished)) for name in names]


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return share(values[0])
    return f"{share(fmean(values))} ({_between(share_interval(values))})"


def level_rows(outcome: StudyOutcome) -> list[tuple[str, ...]]:
    """Questions of each level in the first seed's subset of each variant."""
    return [
        (each.variant.name, *(f"{each.runs[0].levels.get(level, 0):,}" for level in levels_of(outcome)))
        for each in outcome.finished
    ]


def levels_of(outcome: StudyOutcome) -> list[int]:
    return list(range(1, outcome.cfg.label.samples + 2))


def run_rows(outcome: StudyOutcome) -> list[tuple[str, ...]]:
    """Every finished run: folder, accuracy, interval over questions."""
    return [
        (run.folder.name, share(run.accuracy), _between(run.result.summary.interval))
        for each in outcome.finished
        for run in each.runs
    ]


def _between(interval: tuple[float, float]) -> str:
    return f"{share(interval[0])} to {share(interval[1])}"


def _tokens(mean: float | None) -> str:
    return MISSING if mean is None else f"{mean:.1f}"
