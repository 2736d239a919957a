"""What a set of questions looks like: counts, options, answer letters and lengths, as JSON and as one HTML page.

Question length is one of the two stand-ins for the paper's "informativeness"; the other, the effective-query ratio,
needs a model.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np

from alphamed_nemo.config.file_writing import write_text
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.data.question import Question

CountTokens = Callable[[list[str]], list[int]]
WORDS_UNIT = "words and punctuation marks"


@dataclass
class Lengths:
    """Distribution of a length; `histogram` counts texts by `bin_width`, from 0."""

    mean: float
    median: float
    p95: float
    maximum: int
    bin_width: int
    histogram: list[int]


@dataclass
class SetStatistics:
    """One data set in one role (train or evaluation)."""

    dataset: str
    role: str
    questions: int
    options: dict[int, int]  # number of options -> questions
    letters: dict[str, int]  # correct letter -> questions
    with_context: int
    question_length: Lengths  # the stem alone, as the paper counts it
    whole_length: Lengths  # context, stem and options: what a prompt has to hold


def token_counter(tokenizer_path: str) -> tuple[CountTokens, str]:
    """A counter, and the unit it counts in: a model's tokens, or words where no tokenizer is given."""
    if not tokenizer_path:
        return count_words, WORDS_UNIT
    tokenizer = load_tokenizer(tokenizer_path)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    return count, f"tokens of {Path(tokenizer_path).name}"


def count_words(texts: list[str]) -> list[int]:
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def describe(dataset: str, role: str, questions: Sequence[Question], count: CountTokens) -> SetStatistics:
    """Statistics of one set. Raises: ValueError: it is empty."""
    if not questions:
        raise ValueError(f"data set {dataset} ({role}) has no questions left to describe")
    whole = ["\n".join((question.context, question.stem, *question.options)) for question in questions]
    return SetStatistics(
        dataset=dataset,
        role=role,
        questions=len(questions),
        options=dict(sorted(Counter(len(question.options) for question in questions).items())),
        letters=dict(sorted(Counter(question.answer for question in questions if question.options).items())),
        with_context=sum(bool(question.context) for question in questions),
        question_length=lengths(count([question.stem for question in questions])),
        whole_length=lengths(count(whole)),
    )


def lengths(values: Sequence[int], bin_width: int = 10) -> Lengths:
    array = np.asarray(values)
    return Lengths(
        mean=round(float(array.mean()), 2),
        median=float(np.median(array)),
        p95=float(np.percentile(array, 95)),
        maximum=int(array.max()),
        bin_width=bin_width,
        histogram=np.bincount(array // bin_width).tolist(),
    )


def length_figure(sets: Sequence[SetStatistics], unit: str) -> str:
    """SVG: one row a set, the share of its questions by length, on one shared axis."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.7 + 0.75 * len(sets)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(sets), 1, sharex=True))
    # Long tails are cut off; a few questions are all shown, each within its bar.
    limit = max(
        min(spread.p95 * 1.4, spread.maximum) + spread.bin_width for spread in (s.question_length for s in sets)
    )
    for axis, item in zip(axes, sets, strict=True):
        spread = item.question_length
        edges = np.arange(len(spread.histogram) + 1) * spread.bin_width
        axis.stairs(np.asarray(spread.histogram) / item.questions, edges, fill=True, color="#5b8fb9")
        axis.axvline(spread.median, color="#20303f", linewidth=1)
        axis.set_ylabel(f"{item.dataset}\n{item.role}", rotation=0, ha="right", va="center", fontsize=8)
        axis.text(0.995, 0.9, f"median {spread.median:.0f}", transform=axis.transAxes, ha="right", va="top", fontsize=8)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlim(0, limit)
    axes[-1].set_xlabel(f"question length, {unit} (without options and context)")
    out = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "alphamed", "svg.fonttype": "none"}
    ):  # same data, same bytes; real text
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def write_statistics(
    folder: Path, sets: Sequence[SetStatistics], unit: str, tables: Sequence[tuple[str, list[str], list[list]]] = ()
) -> None:
    """Write `statistics.json` and the self-contained `statistics.html` into a folder.

    Args:
        unit: what the lengths count.
        tables: more tables for the page: title, column names, rows of cells.
    """
    content = {"length_unit": unit, "sets": [asdict(item) for item in sets]}
    write_text(folder / "statistics.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "statistics.html", _page(sets, unit, tables))


FEW = 20  # questions, whose shares are given as counts

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#20303f}
table{border-collapse:collapse;margin:0 0 1.5rem}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #dde}
td:first-child,th:first-child{text-align:left;white-space:nowrap}
svg{width:100%;height:auto}.scroll{overflow-x:auto}"""


def _page(sets: Sequence[SetStatistics], unit: str, tables: Sequence[tuple[str, list[str], list[list]]]) -> str:
    letters = sorted({letter for item in sets for letter in item.letters})
    counts = [
        [f"{item.dataset} ({item.role})", item.questions, _options(item), item.with_context]
        + [f"{value:.0f}" for spread in (item.question_length, item.whole_length) for value in _key_lengths(spread)]
        for item in sets
    ]
    balance = [
        [f"{item.dataset} ({item.role})"]
        + [_share(item.letters[letter], item.questions) if letter in item.letters else "" for letter in letters]
        for item in sets
    ]
    spread = ["median", "95%", "longest"]
    body = [
        "<h1>Questions</h1>",
        _table(
            ["set", "questions", "options", "with context"]
            + [f"{part}, {value}" for part in ("question", "whole") for value in spread],
            counts,
        ),
        f"<p>Lengths in {escape(unit)}. Whole: context, question and options.</p>",
        "<h2>Question length</h2>",
        length_figure(sets, unit),
        "<h2>Letter of the correct answer, share of the questions</h2>",
        _table(["set", *letters], balance),
    ]
    for title, columns, rows in tables:
        body += [f"<h2>{escape(title)}</h2>", _table(columns, rows)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Questions</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _share(count: int, questions: int) -> str:
    """In percent; of a few questions, which have none to speak of, as a count."""
    return f"{100 * count / questions:.1f}%" if questions >= FEW else f"{count} of {questions}"


def _key_lengths(spread: Lengths) -> tuple[float, float, int]:
    return spread.median, spread.p95, spread.maximum


def _options(item: SetStatistics) -> str:
    counts = sorted(item.options)
    if counts == [0]:
        return "none: a value"
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _table(columns: list[str], rows: list[list]) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'
