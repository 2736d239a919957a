"""Published accuracies (percent) as printed, each with its source and protocol. What was not published stays empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alphamed_nemo.evaluation.result import EvaluationResult, Summary
from alphamed_nemo.evaluation.table_text import EMPTY, percent

BENCHMARKS = ("MedQA", "MedMCQA", "PubMedQA", "MMLU-ProM", "GPQA-M", "MedXpert")
# Questions of each as others count them. The paper does not state its own; MedQA's numbers fit 1,273 and PubMedQA's
# 1,000, and 390 are most likely GPQA's 78 biology questions five times.
QUESTIONS = ("1,273", "4,183", "1,000", "1,535", "390", "2,450")


@dataclass(frozen=True)
class Origin:
    """Where numbers are from.

    Attributes:
        protocol: decoding and grading, as far as they are published.
        second_hand: read where somebody quotes the source, not in the source.
    """

    name: str
    protocol: str
    second_hand: bool = False


UNKNOWN = "decoding, grading and number of runs not published"
PAPER = Origin("AlphaMed, arXiv 2505.17952, results table", UNKNOWN)
PAPER_LARGE = Origin("AlphaMed, arXiv 2505.17952, results on the hardest sets", UNKNOWN)
QUOTED = Origin("AlphaMed, arXiv 2505.17952, as quoted in a review of it", UNKNOWN, second_hand=True)
INDEPENDENT = Origin("independent GRPO run on AlphaMed19K, arXiv 2509.24560", "decoding and grading not checked")
SECOND_HAND = "†"


@dataclass(frozen=True)
class Number:
    """An accuracy in percent.

    Attributes:
        as_printed: its digits as they were printed: "63.5" and "63.50" claim different things.
        n: questions, as others count the set.
    """

    as_printed: str
    origin: Origin
    n: str

    @property
    def shown(self) -> str:
        return self.as_printed + SECOND_HAND * self.origin.second_hand


@dataclass(frozen=True)
class PublishedRow:
    """One model; `numbers` in the order of BENCHMARKS, None where no number was published."""

    model: str
    numbers: tuple[Number | None, ...]

    def number(self, benchmark: str) -> Number | None:
        return self.numbers[BENCHMARKS.index(benchmark)]


def _row(model: str, origin: Origin, values: str, **others: tuple[str, Origin]) -> PublishedRow:
    """A model's numbers as printed, `-` where there is none; `others` by benchmark, where they are from elsewhere."""
    printed = [(value, origin) for value in values.split()]
    assert len(printed) == len(BENCHMARKS), model
    pairs = [others.get(name, pair) for name, pair in zip(BENCHMARKS, printed, strict=True)]
    numbers = (None if value == "-" else Number(value, of, n) for (value, of), n in zip(pairs, QUESTIONS, strict=True))
    return PublishedRow(model, tuple(numbers))


ROWS = (
    _row("Llama3.1-8B-Instruct", PAPER, "58.7 56.2 75.2 58.7 42.7 13.0"),
    _row("Llama3.1-8B-Instruct + MedQA-Sub (1,200)", PAPER, "74.2 63.1 79.0 62.9 52.7 21.8"),
    _row("Llama3.1-8B-Instruct + MedMCQA-Sub (1,200)", PAPER, "72.8 61.9 79.2 61.7 50.1 18.7"),
    _row("Llama3.1-8B-Instruct + PubMedQA-Sub (1,200)", PAPER, "69.9 59.8 79.2 59.3 48.0 17.9"),
    _row("HuatuoGPT-o1-8B", PAPER, "72.6 60.4 79.2 63.7 55.4 16.8"),
    _row("Qwen2.5-7B-Instruct", PAPER, "61.5 56.6 71.3 61.2 42.6 12.2"),
    _row("AlphaMed-7B", PAPER, "71.6 61.5 73.3 66.8 53.9 19.2"),
    _row("Qwen2.5-3B-Instruct", PAPER, "47.6 44.8 68.3 48.0 29.5 11.5"),
    _row("AlphaMed-3B", PAPER, "59.2 52.3 71.8 55.3 48.7 15.6"),
    _row(
        "AlphaMed-8B (19K)",
        PAPER_LARGE,
        "- - - 66.67 - 22.14",
        MedQA=("76.19", QUOTED),
        MedMCQA=("64.47", QUOTED),
    ),
    _row("AlphaMed-70B", PAPER_LARGE, "- - - 79.56 - 32.56"),
    # A chain-of-thought prompt alone is worth 13 points on MedQA: a table without this row misleads.
    _row("Llama3.1-8B-Instruct, chain-of-thought prompt, untrained", INDEPENDENT, "68.2 57.3 78.2 60.1 45.6 16.1"),
    _row("Llama3.1-8B-Instruct, GRPO on AlphaMed19K", INDEPENDENT, "72.5 61.6 78.5 63.5 46.9 17.3"),
)

# names of data sets (Question.dataset) → columns of the paper
COLUMNS = {
    "medqa": "MedQA",
    "medmcqa": "MedMCQA",
    "pubmedqa": "PubMedQA",
    "mmlu_pro": "MMLU-ProM",
    "gpqa": "GPQA-M",
    "medxpertqa": "MedXpert",
}


def published_table(results: Sequence[EvaluationResult] = ()) -> str:
    """The published numbers as a Markdown table, below them our own results on the same benchmarks, and the sources.

    Published decoding and grading are mostly unknown (facts in docs/grading.md), so rows are not comparable to a point.
    """
    lines = [
        f"| model | {' | '.join(BENCHMARKS)} | source |",
        f"| --- |{' ---: |' * len(BENCHMARKS)} --- |",
        f"| n as others count it | {' | '.join(QUESTIONS)} | {EMPTY} |",
    ]
    for row in ROWS:
        cells = [EMPTY if number is None else number.shown for number in row.numbers]
        sources = dict.fromkeys(number.origin.name for number in row.numbers if number)
        lines.append(f"| {row.model} | {' | '.join(cells)} | {'; '.join(sources)} |")
    for (label, protocol), parts in _own_rows(results):
        cells = [_own(parts.get(name)) for name in BENCHMARKS]
        lines.append(f"| {label} | {' | '.join(cells)} | this run, protocol {protocol} |")
    origins = dict.fromkeys(number.origin for row in ROWS for number in row.numbers if number)
    notes = [f"- {origin.name}: {origin.protocol}." for origin in origins]
    notes.append(f"- {SECOND_HAND} second-hand: not read in the source itself.")
    return "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def _own_rows(results: Sequence[EvaluationResult]) -> list[tuple[tuple[str, str], dict[str, Summary]]]:
    """Label and protocol, and numbers by column: one row for all sets of a model, another where a set occurs again."""
    rows: list[tuple[tuple[str, str], dict[str, Summary]]] = []
    for result in results:
        key = (result.label, result.settings["protocol"])
        parts = {COLUMNS[name]: part for name, part in result.by_dataset.items() if name in COLUMNS}
        fitting = (row for row_key, row in rows if row_key == key and not row.keys() & parts.keys())
        row = next(fitting, None)
        if row is not None:
            row.update(parts)
        elif parts:
            rows.append((key, parts))
    return rows


def _own(part: Summary | None) -> str:
    if part is None:
        return EMPTY
    n = f"{part.n:,}"
    return percent(part.accuracy) if n in QUESTIONS else f"{percent(part.accuracy)} (n = {n})"
