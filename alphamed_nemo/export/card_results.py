"""Evaluations on a model card: which results are of exactly these weights, their tables, and their place in README.md.

The card's section of results lies between two comments, so that it can be written anew without the rest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alphamed_nemo import provenance
from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.evaluation.result import EvaluationResult, Summary
from alphamed_nemo.evaluation.suite_results import read_suites
from alphamed_nemo.evaluation.table_text import EMPTY, percent
from alphamed_nemo.export import leaks, markdown
from alphamed_nemo.export.card_judged import NOT_DONE, free_text
from alphamed_nemo.policy.checkpoint import manifest

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- evaluation: recipes/evaluate.py writes what is below -->", "<!-- end of evaluation -->"
OWN, BASE = "this model", "base model"
_PROTOCOLS = {
    "boxed": r"`boxed`: the last `\boxed{}` has to hold exactly one option",
    "lenient": "`lenient`: the last statement of a final answer counts, however it is worded",
    "first_or_last": "`first_or_last`: the first or the last match, whichever is right more often in a data set",
}
_ASKED = (
    "prompt",
    "chat_template",
    "thinking",
    "samples",
    "temperature",
    "top_p",
    "max_new_tokens",
)  # has to agree for a test


@dataclass(frozen=True)
class Row:
    """A result and whose it is: `OWN` or `BASE`."""

    of: str
    result: EvaluationResult

    @property
    def title(self) -> str:
        prefix = self.result.settings.get("force_prefix")
        return f"{self.of} (made to begin with “{prefix}”)" if prefix else self.of


def find_results(evaluations: Path, origin: dict[str, Any]) -> list[Row]:
    """Results in a run's eval folder that are of a release, or of its base model; the release's first.

    A result is of the release if it carries the hash that provenance.json has for the model, and the identity of the
    files that were there when it was asked is still that of the export; it is the base model's if it carries the
    identity of the base model's files. Of several with the same settings the newest stays.
    """
    found: dict[str, Row] = {}
    for result in [*_single(evaluations), *read_suites(evaluations)]:
        asked = result.settings
        if asked.get("weight_version"):  # sampled from weights that a trainer had sent, not from the folder
            continue
        if asked.get("release") == origin["model_sha256"] and asked.get("weights") == origin["weights"]:
            row = Row(OWN, result)
        elif asked.get("weights") and asked["weights"] == origin["base_model"]["weights"]:
            row = Row(BASE, result)
        else:
            continue
        key = repr([row.of, sorted((k, repr(v)) for k, v in asked.items() if k not in ("model", "weights"))])
        if key not in found or found[key].result.date <= result.date:
            found[key] = row
    return sorted(found.values(), key=_place)


def _single(evaluations: Path) -> Iterator[EvaluationResult]:
    """The results that are no suite's."""
    for path in sorted(evaluations.glob("*.json")):
        try:
            yield EvaluationResult.read(path)
        except ValueError as error:
            logger.warning("model card: passed over: %s", error)


def _place(row: Row) -> tuple:
    """The order of the tables, the rule of training first, and of the columns in them."""
    asked, protocols = row.result.settings, list(_PROTOCOLS)
    protocol = protocols.index(asked["protocol"]) if asked["protocol"] in protocols else len(protocols)
    return protocol, row.of != OWN, bool(asked.get("force_prefix")), row.result.date


def section(rows: Sequence[Row], free_text: Sequence[str] = (NOT_DONE,)) -> str:
    """Everything between the comments, comments included.

    Args:
        rows: results by option.
        free_text: lines on answers in free text (card_judged.py).
    """
    parts, judged = [BEGIN], list(free_text) != [NOT_DONE]
    if not judged and not any(row.of == OWN for row in rows):
        parts.append("This model has not been evaluated.")
    if rows:
        parts.append("Accuracy in percent with Wilson's 95% interval. Unanswered questions count as wrong.")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        asked = row.result.settings
        groups.setdefault((str(asked.get("questions", "")), str(asked["protocol"])), []).append(row)
    for (_, protocol), group in groups.items():
        suite = group[0].result.settings.get("suite")
        named = f"The suite `{suite}`, graded" if suite else "Grading"
        parts.append(f"{named} by the protocol {_PROTOCOLS.get(protocol, protocol)}.")
        parts += [_table(group), _how(group)]
        parts += [line for own in group if own.of == OWN for line in _tests(own, group)]
    if rows or judged:
        parts += free_text
    return "\n\n".join([*parts, END])


def model_index(name: str, rows: Sequence[Row], hubs: dict[str, str]) -> list[dict[str, Any]]:
    """The front matter's `model-index`: this model's own results; empty where there is none.

    Args:
        name: the model's.
        rows: those of the tables.
        hubs: data set → repository on the hub, where it is known.
    """
    results = []
    for row in rows:
        asked = row.result.settings
        if row.of != OWN or asked.get("force_prefix"):
            continue
        for dataset, part in row.result.by_dataset.items():
            details = {
                "date": row.result.date or "not recorded",
                "questions": part.n,
                "interval_95": [round(100 * value, 2) for value in part.interval],
                "protocol": asked["protocol"],
                "decoding": _decoding(asked),
            }
            metric = {"type": "accuracy", "name": f"accuracy, protocol {asked['protocol']}, {_decoding(asked)}"}
            results.append(
                {
                    "task": {"type": "text-generation", "name": "Multiple-choice question answering"},
                    "dataset": {"type": hubs.get(dataset, dataset), "name": dataset},
                    "metrics": [metric | {"value": round(100 * part.accuracy, 2), "args": details}],
                }
            )
    return [{"name": name, "results": results}] if results else []


def update_card(folder: Path, evaluations: Path) -> bool:
    """Brings a release's README.md up to date with the results in an eval folder; True where it was changed.

    Two evaluations that end at once may both do this: each looks again after it has written, so the last one to write
    has seen every result.

    Raises:
        ValueError: a file of the release is no longer the one that was exported, or a text must not be published.
    """
    path, changed = folder / provenance.CARD, False
    if not path.is_file() or not (folder / provenance.NAME).is_file():
        return False
    origin = provenance.read_json(folder / provenance.NAME)
    while True:
        before = path.read_text(encoding="utf-8")
        if "model_sha256" not in origin or BEGIN not in before or END not in before:
            logger.warning("%s has no section of results to write to; convert the checkpoint again for one", path)
            return changed
        rows, judged = find_results(evaluations, origin), free_text(evaluations, origin)
        after = with_results(before, origin, rows, judged) if rows or judged != [NOT_DONE] else before
        if after == before:
            return changed
        _check(folder, origin, after)
        with whole_file(path) as part:
            part.write_text(after, encoding="utf-8")
        changed = True


def with_results(card: str, origin: dict[str, Any], rows: Sequence[Row], free_text: Sequence[str]) -> str:
    """A card with other results in its section and its front matter."""
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    values = yaml.safe_load(front)
    values.pop("model-index", None)
    if index := model_index(origin["name"], rows, origin["data"]["on_hub"]):
        values["model-index"] = index
    text = section(rows, free_text)
    body = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: text, body, flags=re.DOTALL)
    return f"{front_text(values)}{body}"


def front_text(values: dict[str, Any]) -> str:
    """A card's front matter, with the lines around it."""
    return "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120) + "---\n"


def _check(folder: Path, origin: dict[str, Any], card: str) -> None:
    for name, digest in origin["files"].items():
        if not (folder / name).is_file() or manifest.digest(folder / name) != digest:
            raise ValueError(
                f"{folder / name}: not the file that was exported, so no result is of this release; convert the "
                "checkpoint again"
            )
    if found := leaks.leaks_of(provenance.CARD, card):
        raise ValueError(f"{folder / provenance.CARD}: not updated, since it would publish {'; '.join(found)}")


def _table(group: Sequence[Row]) -> str:
    datasets = sorted({name for row in group for name in row.result.by_dataset})
    parts = [row.result.by_dataset for row in group]
    lines = [[name, *_asked(group, name), *(_cell(part.get(name)) for part in parts)] for name in datasets]
    if len(datasets) > 1:
        every = group[0].result.summary
        lines.append(["all", str(every.n), percent(every.guessing), *(_cell(row.result.summary) for row in group)])
    return markdown.table(["data set", "questions", "guessing", *(row.title for row in group)], lines)


def _asked(group: Sequence[Row], dataset: str) -> tuple[str, str]:
    """The number of questions, and what guessing would get."""
    part = next(row.result.by_dataset[dataset] for row in group if dataset in row.result.by_dataset)
    return str(part.n), percent(part.guessing)


def _cell(part: Summary | None) -> str:
    if part is None:
        return EMPTY
    low, high = part.interval
    return f"{percent(part.accuracy)} ({percent(low)} to {percent(high)})"


def _how(group: Sequence[Row]) -> str:
    """A line for each column: how it was asked, and when."""
    lines = []
    for row in group:
        asked, summary = row.result.settings, row.result.summary
        words = [f"prompt `{asked.get('prompt', 'not recorded')}`"]
        words.append("with the chat template" if asked.get("chat_template") else "without a chat template")
        if (thinking := asked.get("thinking")) is not None:
            words.append(f"thinking {'on' if thinking else 'off'}")
        words.append(_decoding(asked))
        words.append(f"{summary.unanswered_count} of {summary.responses} responses without an answer")
        if row.result.mean_length is not None:
            words.append(f"{row.result.mean_length:.0f} tokens per response on average")
        lines.append(f"- {row.title}: {', '.join(words)}; evaluated {row.result.date or 'on a day not recorded'}")
    return "\n".join(lines)


def _decoding(asked: dict[str, Any]) -> str:
    temperature, samples = asked.get("temperature"), asked.get("samples", 1)
    words = "greedy" if temperature == 0 else f"temperature {temperature}, top-p {asked.get('top_p')}"
    words += f", at most {asked['max_new_tokens']} new tokens" if asked.get("max_new_tokens") else ""
    return words if samples == 1 else f"{words}, mean of {samples} samples per question"


def _tests(own: Row, group: Sequence[Row]) -> list[str]:
    """McNemar's test against every result of the base model that was asked in the same way."""
    lines = []
    for other in group:
        same = all(own.result.settings.get(key) == other.result.settings.get(key) for key in _ASKED)
        if other.of != BASE or not same:
            continue
        test = own.result.compare(other.result)
        majority = "" if own.result.samples == 1 else " by the majority of their samples"
        lines.append(
            f"Paired test on the same {own.result.summary.n} questions{majority}: {test.only_first} that only "
            f"{own.title} has right, {test.only_second} that only the {other.title} has right (McNemar's exact test, "
            f"two-sided: p = {test.p:.2g})."
        )
    return lines
