"""Which figures a report shows, and what each says. Every one is left out where the run has no data for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from alphamed_nemo.config.run_folder import ACCURACY
from alphamed_nemo.data.difficulty import expected_effective
from alphamed_nemo.report.run_data import CORRECT, Evaluation, RunData
from alphamed_nemo.report.scale import number, percent
from alphamed_nemo.report.svg import Series, bars, histogram, intervals, line_chart, stacked_bars

BINS = (1, 2, 5, 10, 25, 50, 100, 250)  # tokens
LEVELS_SHOWN = 8
PARTS_SHOWN = 8  # as many as there are colours
WINDOWS = 6
TIMINGS = ("generation", "reward", "old_logprobs", "training", "refit", "checkpoint")


@dataclass
class Figure:
    """A chart with its words.

    Attributes:
        title: what is shown.
        note: one sentence on how to read it.
        svg: the chart.
        legend: (name, colour number) of each series; empty where there is one.
    """

    title: str
    note: str
    svg: str
    legend: list[tuple[str, int]]


def training_figures(run: RunData) -> list[Figure]:
    """The curves of one run."""
    makers = (
        validation,
        reward,
        correct_answers,
        reward_functions,
        effective_queries,
        effective_in_training,
        response_length,
        answers,
        logprob_gap,
        timing,
        entropy,
        gradient_norm,
    )
    return [figure for figure in (make(run) for make in makers) if figure is not None]


def lines(run: RunData, title: str, note: str, names: Sequence[tuple[str, str]], **options) -> Figure | None:
    """A line chart of metrics given as (metric, shown name), or None where none of them was recorded."""
    series = []
    for colour, (metric, name) in enumerate(names, start=1):
        x, y = run.series(metric)
        if x:
            series.append(Series(name, x, y, colour))
    if not series:
        return None
    legend = [(line.name, line.colour) for line in series] if len(series) > 1 else []
    return Figure(title, note, line_chart(series, title, **options), legend)


def validation(run: RunData) -> Figure | None:
    """Accuracy on questions that are not trained on, and what of several samples is right."""
    x, y = run.series(ACCURACY)
    if not x:
        return None
    series = [Series("greedy answers", x, y, 1)]
    low, high = (run.series(f"{ACCURACY}_{end}")[1] for end in ("low", "high"))
    names = {name for row in run.metrics for name in row if name.startswith(("validation/mean@", "validation/pass@"))}
    for colour, name in enumerate(sorted(names), start=2):
        series.append(Series(name.removeprefix("validation/"), *run.series(name), colour))
    last = next(row for row in reversed(run.metrics) if row.get(ACCURACY) is not None)
    note = (
        f"Share of {last['validation/questions']:.0f} questions that are not trained on, answered correctly. A dot for "
        "each validation; whiskers are 95% intervals."
    )
    if last.get("validation/gain") is not None and last["step"] > 0:
        gain, bounds = last["validation/gain"], (last["validation/gain_low"], last["validation/gain_high"])
        note += (
            f" The last one: {100 * gain:+.1f} points over the base model, on the same questions "
            f"(95% interval {100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f})."
        )
    ends = list(zip(low, high, strict=True))
    guessing = last.get("validation/guessing")
    marks = [] if guessing is None else [(guessing, "guessing")]
    chart = line_chart(series, "Validation", y_range=(0, 1), show=percent, marks=marks, points=True, bounds=ends)
    return Figure("Validation", note, chart, [(line.name, line.colour) for line in series] if len(series) > 1 else [])


def reward(run: RunData) -> Figure | None:
    if run.weighted:
        note = "Mean weighted sum of the reward functions; right answers have a chart of their own."
        return lines(run, "Weighted reward", note, [("reward/mean", "weighted reward")])
    note = "Share of sampled responses whose final answer is correct."
    return lines(run, "Reward", note, [("reward/mean", "reward")], y_range=(0, 1), show=percent)


def correct_answers(run: RunData) -> Figure | None:
    """Where the reward is not this share itself."""
    note = "Share of sampled responses whose final answer is correct."
    return lines(run, "Correct answers", note, [(CORRECT, "correct")], y_range=(0, 1), show=percent)


def reward_functions(run: RunData) -> Figure | None:
    """What a user's own functions gave, and the named parts of it."""
    names = [name for name in run.reward_parts if name != CORRECT]
    note = "Mean of each reward function, and of the parts that it names, before its weight."
    return lines(run, "Reward functions", note, [(name, name.removeprefix("reward/")) for name in names[:PARTS_SHOWN]])


def effective_queries(run: RunData) -> Figure | None:
    note = (
        "Share of questions whose responses are neither all right nor all wrong; only these carry a gradient. "
        "It is expected to fall as questions are learned."
    )
    names = [("effective_query_ratio", "effective queries")]
    return lines(run, "Effective queries", note, names, y_range=(0, 1), show=percent)


def response_length(run: RunData) -> Figure | None:
    x, y = run.series("response_length/mean")
    if not x:
        return None
    note = "Mean tokens per response. Nothing rewards length; it grows where reasoning pays off."
    _, clipped = run.series("response_length/clip_ratio")
    if clipped:
        most = f"At most {percent(max(clipped))} of a step's responses" if max(clipped) > 0 else "No response"
        note += f" {most} reached the limit of tokens."
    return lines(run, "Response length", note, [("response_length/mean", "tokens")], y_range=(0, 1.12 * max(y)))


def answers(run: RunData) -> Figure | None:
    note = "Shares of responses that reason before they answer, and of those from which no answer could be read."
    names = [("reasoned_ratio", "reasoned"), ("unparsable_ratio", "unparsable")]
    return lines(run, "Form of the answers", note, names, y_range=(0, 1), show=percent)


def logprob_gap(run: RunData) -> Figure | None:
    """exp|d| − 1 is |d| to first order, so the mismatch and the differences share one axis in nats."""
    series = []
    x, y = run.series("token_mult_prob_error")
    if x:
        series.append(Series("mismatch", x, [max(0.0, value - 1) for value in y], 1))
    x, y = run.series("logprob_difference_limit")
    if x:
        series.append(Series("limit of the mean difference", x, y, 3))
    x, y = run.series("logprob_difference_max")
    if x:
        series.append(Series("largest difference", x, y, 2))
    if not any(value > 0 for line in series for value in line.y):
        return None
    gate = run.config.get("grpo", {}).get("max_token_mult_prob_error") or 0
    marks = [(gate - 1, f"limit of the mismatch, {number(gate - 1)}")] if gate > 1 else []
    note = (
        "How far the trainer's log-probs of the sampled tokens are from the rollout engine's. The mismatch is the mean "
        "ratio of probabilities, minus 1; differences are in nats. The limit is what rounding explains, as measured on "
        "the policy."
    )
    if any(value == 0 for line in series for value in line.y):
        note += " Exact agreement, 0, is drawn at the bottom."
    chart = line_chart(series, "Trainer and rollout engine", log=True, marks=marks)
    return Figure("Trainer and rollout engine", note, chart, [(line.name, line.colour) for line in series])


def timing(run: RunData) -> Figure | None:
    rows = [row for row in run.metrics if row.get("timing/step") is not None]
    if not rows:
        return None
    steps = [float(row["step"]) for row in rows]
    parts = {name: [float(row.get(f"timing/{name}") or 0.0) for row in rows] for name in TIMINGS}
    total = [float(row["timing/step"]) for row in rows]
    measured = [sum(values) for values in zip(*parts.values(), strict=True)]
    parts["other"] = [max(0.0, whole - part) for whole, part in zip(total, measured, strict=True)]
    floor = 0.002 * sum(total)  # a layer nobody can see only clutters the legend
    layers = [
        Series(name.replace("_", " "), steps, values, colour)
        for colour, (name, values) in enumerate(parts.items(), start=1)
        if sum(values) > floor
    ]
    if not layers:
        return None
    note = f"Seconds of each step by activity; {number(sum(total) / len(total))} s per step on average."
    chart = stacked_bars(layers, "Time of a step", lambda value: f"{number(value)} s" if value else "0")
    return Figure("Time of a step", note, chart, [(layer.name, layer.colour) for layer in layers])


def effective_in_training(run: RunData) -> Figure | None:
    """A step has a handful of questions of each level: means over a sixth of the run."""
    steps, _ = run.series("effective_query_ratio")
    if not steps:
        return None
    width = max(1, math.ceil((steps[-1] - steps[0] + 1) / WINDOWS))
    series = []
    for level in range(1, LEVELS_SHOWN + 1):
        windows: dict[int, list[float]] = {}
        for step, value in zip(*run.series(f"effective_query_ratio/L{level}"), strict=True):
            windows.setdefault(int((step - steps[0]) // width), []).append(value)
        if windows:
            centres = [steps[0] + width * window + (width - 1) / 2 for window in windows]
            series.append(Series(f"L{level}", centres, [fmean(values) for values in windows.values()], level))
    if not series:
        return None
    title, note = (
        "Effective queries by level",
        "The same by the question's difficulty: each dot is the mean over a sixth of the run.",
    )
    chart = line_chart(series, title, y_range=(0, 1), show=percent, points=True)
    return Figure(title, note, chart, [(line.name, line.colour) for line in series])


def entropy(run: RunData) -> Figure | None:
    return lines(run, "Entropy", "Mean entropy of the policy per response token, in nats.", [("entropy", "nats")])


def gradient_norm(run: RunData) -> Figure | None:
    return lines(run, "Gradient norm", "Norm over all parameters, before clipping.", [("grad_norm", "norm")])


def difficulty(run: RunData) -> Figure | None:
    if not run.levels:
        return None
    total = sum(run.levels.values())
    names = [f"L{level}" for level in run.levels]
    note = f"{total:,} questions by how many of the base model's samples were right: L1 all, the last level none."
    return Figure("Difficulty levels", note, bars(names, list(run.levels.values()), "Difficulty levels"), [])


def effective_by_level(run: RunData) -> Figure | None:
    """What a level is worth to GRPO: questions at both ends give groups of equal rewards, and no gradient."""
    size = run.config.get("grpo", {}).get("samples_per_question")
    expected: dict[int, list[float]] = {}
    for question in run.labelled:
        if question.correct is not None and question.samples and size:
            chance = expected_effective(question.correct, question.samples, size)
            expected.setdefault(question.level, []).append(chance)
    if not expected:
        return None
    levels = sorted(expected)
    note = f"Expected share of effective queries in groups of {size}, from the base model's samples (uniform prior)."
    chart = bars([f"L{level}" for level in levels], [fmean(expected[level]) for level in levels], note, percent)
    return Figure("Expected effective queries", note, chart, [])


def question_length(runs: Sequence[RunData]) -> Figure | None:
    """Distribution of question lengths, one outline per data set; with several runs, one per run."""
    groups: dict[str, list[int]] = {}
    for run in runs:
        for question in run.labelled:
            if question.tokens is not None:
                groups.setdefault(run.name if len(runs) > 1 else question.dataset, []).append(question.tokens)
    if not groups:
        return None
    longest = max(max(lengths) for lengths in groups.values())
    width = next(size for size in BINS if longest / size <= 24 or size == BINS[-1])
    series = []
    for colour, (name, lengths) in enumerate(groups.items()):
        counts = Counter(length // width for length in lengths)
        bins = range(min(counts), max(counts) + 1)
        share = [counts[i] / len(lengths) for i in bins]
        series.append(Series(name, [float(i * width) for i in bins], share, 1 + colour % 8))
    unit = "one token" if width == 1 else f"{width} tokens"
    note = f"Share of questions by length without the prompt around them, in bins of {unit}."
    chart = histogram(series, width, "Question length", "tokens")
    return Figure(
        "Question length", note, chart, [(line.name, line.colour) for line in series] if len(series) > 1 else []
    )


def accuracies(evaluations: Sequence[Evaluation], guessing: float | None = None) -> Figure | None:
    if not evaluations:
        return None
    chart = intervals(
        [row.label for row in evaluations],
        [row.accuracy for row in evaluations],
        [row.interval for row in evaluations],
        [8 if row.role == "base" else 6 if row.role == "forced" else 1 for row in evaluations],
        "Accuracy before and after",
        guessing,
    )
    note = "Share of questions answered correctly; whiskers are 95% intervals."
    if guessing is not None:
        note += " The broken line is what guessing gets on average."
    return Figure("Accuracy", note, chart, [])


def benchmarks(runs: Sequence[RunData]) -> list[Figure]:
    """One chart per benchmark: the base model once, then each run's trained model, in the order of the runs."""
    names = sorted({name for run in runs for row in run.evaluations for name in row.by_dataset})
    figures = []
    for name in names:
        rows = []  # label, (accuracy, interval, n), colour
        bases = {row.by_dataset[name]: run.name for run in runs if (row := run.base) and name in row.by_dataset}
        for part, run_name in bases.items():
            rows.append(("base" if len(bases) == 1 else f"{run_name}, base", part, 8))
        for i, run in enumerate(runs):
            if (row := run.trained) and name in row.by_dataset:
                rows.append((run.name, row.by_dataset[name], 1 + i % 7))
        chart = intervals(
            [label for label, _, _ in rows],
            [part[0] for _, part, _ in rows],
            [part[1] for _, part, _ in rows],
            [colour for _, _, colour in rows],
            f"Accuracy on {name}",
        )
        figures.append(Figure(name, f"Accuracy with 95% intervals{questions_asked(rows)}.", chart, []))
    return figures


def questions_asked(rows: Sequence[tuple]) -> str:
    counts = {part[2] for _, part, _ in rows}
    return f", n = {counts.pop():,}" if len(counts) == 1 and None not in counts else ""


def compared(runs: Sequence[RunData]) -> list[Figure]:
    """The same curve of several runs in one chart each."""
    share: dict[str, Any] = {"y_range": (0, 1), "show": percent}
    dots: dict[str, Any] = {**share, "points": True}
    right = "Share of sampled responses whose final answer is correct."
    weighted = any(run.weighted for run in runs)
    wanted = (
        ("Weighted reward", "reward/mean", "Mean weighted sum of the reward functions.", {})
        if weighted
        else ("Reward", "reward/mean", right, share),
        *([("Correct answers", CORRECT, right, share)] if weighted else []),
        ("Validation", ACCURACY, "Share of the validation questions answered correctly.", dots),
        ("Effective queries", "effective_query_ratio", "Share of questions that carry a gradient.", share),
        ("Response length", "response_length/mean", "Mean tokens per response.", {}),
        ("Time of a step", "timing/step", "Seconds per step.", {}),
    )
    figures = []
    for title, metric, note, options in wanted:
        series = [
            Series(run.name, *run.series(run.right if metric == CORRECT else metric), 1 + i % 8)
            for i, run in enumerate(runs)
        ]
        series = [line for line in series if line.x]
        if series:
            legend = [(line.name, line.colour) for line in series]
            figures.append(Figure(title, note, line_chart(series, title, **options), legend))
    return figures
