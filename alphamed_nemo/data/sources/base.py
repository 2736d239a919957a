"""What every loader shares: a row becomes a question, or is set aside with its reason."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.cells import Unusable, text
from alphamed_nemo.data.letter_case import same_words
from alphamed_nemo.data.question import LETTERS, Question, repeated_texts, same_text
from alphamed_nemo.data.sources.rows import HubSet, Rows, read_rows
from alphamed_nemo.data.text_files import parse_json, read_text

log = logging.getLogger(__name__)

DUPLICATE = "duplicate options"
VALUE = "asks for a value"


@dataclass(frozen=True)
class SetAside:
    """A row that was not used. `row` counts from 0 in the source; `place` is its file and line."""

    dataset: str
    row: int
    reason: str
    detail: str
    place: str = ""


@dataclass
class Loaded:
    """A data set as read. rows = questions + set_aside + outside (rows that were not asked for).

    `evaluation_only` counts questions of an evaluation set that a training set would have set aside, by reason.
    """

    name: str
    origin: str
    rows: int
    questions: list[Question] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    outside: int = 0
    evaluation_only: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(item.reason for item in self.set_aside).most_common())


class Loader:
    """One data set's own schema. Subclasses say where it lives, what a row must have, and how to read a row."""

    hub: HubSet | None = None
    required: tuple[str, ...] = ()  # columns that tell this schema from another; the answer may be missing
    where: Mapping[str, Collection[str]] = {}  # column: values of the rows that belong to the set

    def __init__(self, name: str, source: SourceConfig, rows: Rows) -> None:
        self.name = name
        self.source = source
        missing = [column for column in self.required if column not in rows.rows[0]]
        if missing:
            raise ValueError(
                f"data set {name}: {rows.origin} has no column {missing[0]!r}; found {', '.join(rows.rows[0])}; "
                f"expected the columns {', '.join(self.required)}"
            )
        self.wanted = {**self.where, **source.where}
        for column, values in self.wanted.items():
            found = sorted({text(row.get(column), column) for row in rows.rows})
            if not set(found) & set(values):
                raise ValueError(
                    f"data set {name}: no row of {rows.origin} has {column} {' or '.join(values)}; "
                    f"found {', '.join(found[:20]) or 'nothing'}"
                )

    def is_wanted(self, row: dict) -> bool:
        """Whether a row is one of those asked for by `where`."""
        return all(text(row.get(column), column) in values for column, values in self.wanted.items())

    def question(self, row: dict) -> Question | None:
        """The question of a row, or None where the row is outside the categories asked for. Raises: Unusable."""
        raise NotImplementedError

    def build(
        self, stem: object, options: Sequence[object], answer: str, *, id: object = "", context: str = "", **metadata
    ) -> Question:
        """A checked question.

        Its id is `<name>-<the source's id>`, with a hash of its text where the source has no id.

        Raises:
            Unusable: the parts do not make a question.
        """
        stem, options = text(stem, "question"), tuple(text(option, "options") for option in options)
        if not stem:
            raise Unusable("empty stem")
        if not 2 <= len(options) <= len(LETTERS):
            raise Unusable("number of options", f"{len(options)}, expected 2 to {len(LETTERS)}")
        if not all(options):
            raise Unusable("empty option", f"{LETTERS[options.index('')]}")
        if not answer:
            raise Unusable("no answer")
        if answer not in LETTERS[: len(options)]:
            expected = f"expected a letter from A to {LETTERS[len(options) - 1]}"
            raise Unusable("answer not among the options", f"found {answer!r}, {expected}")
        if same_text(options[LETTERS.index(answer)]) in repeated_texts(options):
            raise Unusable(DUPLICATE, f"the correct one occurs twice: {' | '.join(options)}")
        key = text(id, "id") or content_hash(stem, context, *options, answer)
        metadata = {name: value for name, value in metadata.items() if value not in (None, "")}
        key = key.removeprefix(f"{self.name}-")  # the project's own files are read back with the ids they have
        return Question(f"{self.name}-{key}", self.name, stem, options, answer, context, metadata=metadata)


def load(loader: type[Loader], name: str, source: SourceConfig, evaluation: bool, max_unusable_share: float) -> Loaded:
    """Read a data set into questions.

    Args:
        name: what its questions are called.
        evaluation: read the split that the authors evaluate on, where `source.split` does not say, and keep questions
            of which two wrong options say the same, so that their number is the published one.
        max_unusable_share: of the rows; more set aside than this is an error.

    Raises:
        ValueError: the source cannot be read, has another schema, or too many of its rows are unusable.
    """
    rows = read_rows(name, source, loader.hub, evaluation)
    reader = loader(name, source, rows)
    loaded = Loaded(name, rows.origin, len(rows.rows))
    ids = _ids(name, source.ids)
    seen: set[str] = set()
    for index, row in enumerate(rows.rows):
        try:
            if not reader.is_wanted(row):
                loaded.outside += 1
                continue
            for column in reader.required:
                if column not in row:
                    raise Unusable("missing column", column)
            question = reader.question(row)
            if question is not None and ids is not None and question.id.removeprefix(f"{name}-") not in ids:
                question = None
            if question is not None and question.id in seen:
                raise Unusable("repeated id", question.id)
            if question is not None and not evaluation:
                _check_for_training(question)
        except Unusable as reason:
            loaded.set_aside.append(SetAside(name, index, reason.reason, reason.detail, rows.place(index)))
            continue
        if question is None:
            loaded.outside += 1
            continue
        seen.add(question.id)
        loaded.questions.append(question)
        try:
            _check_for_training(question)
        except Unusable as reason:
            loaded.evaluation_only[reason.reason] += 1
    missing = [] if ids is None else sorted(ids - {id.removeprefix(f"{name}-") for id in seen})
    if missing:
        raise ValueError(
            f"data set {name}: {len(missing)} of {len(ids or ())} ids of {source.ids} are not in {rows.origin}; first: "
            f"{missing[0]}"
        )
    _check(loaded, max_unusable_share)
    if source.published and len(loaded.questions) != source.published and not source.rows:
        log.warning(
            "%s: %d questions, but published results count %d; set aside: %s",
            *(name, len(loaded.questions), source.published, loaded.reasons or "none"),
        )
    return loaded


def _ids(name: str, path: str) -> set[str] | None:
    """The ids that a file names; None without a file. Raises: ValueError: no list of ids, or object by id."""
    if not path:
        return None
    try:
        content = parse_json(read_text(Path(path)))
    except (ValueError, OSError) as error:
        raise ValueError(f"data set {name}: ids: {path} cannot be read as JSON ({error})") from error
    if not isinstance(content, (list, dict)) or not content or any(isinstance(id, (list, dict)) for id in content):
        raise ValueError(f"data set {name}: ids: {path} holds no list of ids, and no object by id")
    return {str(id) for id in content}


def _check_for_training(question: Question) -> None:
    """Raises: Unusable: options that say the same, which belong to a published set and to no training set; a value."""
    if not question.options:
        raise Unusable(VALUE, "the training rule reads options")
    said = [same_words(option) for option in question.options]
    if len(set(said)) < len(said):
        raise Unusable(DUPLICATE, " | ".join(question.options))


def _check(loaded: Loaded, max_unusable_share: float) -> None:
    if loaded.set_aside:
        first, count = loaded.set_aside[0], len(loaded.set_aside)
        found = f"{first.place}: {first.reason}{f' ({first.detail})' if first.detail else ''}"
        if count > max_unusable_share * loaded.rows:
            raise ValueError(
                f"data set {loaded.name}: {count} of {loaded.rows} rows of {loaded.origin} are unusable "
                f"({loaded.reasons}), more than max_unusable_share={max_unusable_share}; first: {found}. A test split "
                "without answers, or another data set's schema?"
            )
        log.warning(
            "%s: set aside %d of %d rows: %s; first: %s", loaded.name, count, loaded.rows, loaded.reasons, found
        )
    if not loaded.questions:
        raise ValueError(f"data set {loaded.name}: no row of {loaded.origin} is of the categories asked for")


def content_hash(*parts: str) -> str:
    """16 hex digits that depend on the text alone, so that an id survives reordering and resampling."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
