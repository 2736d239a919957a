"""Raw rows of a data set, from the hub or from the authors' own files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from alphamed_nemo.config.sources import SourceConfig
from alphamed_nemo.data.sources.csv_rows import read_csv
from alphamed_nemo.data.sources.json_rows import read_json

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class HubSet:
    """Where a data set lives on the hub, and which splits its authors train and evaluate on."""

    repository: str
    subset: str = ""
    train_split: str = "train"
    evaluation_split: str = "test"


@dataclass
class Rows:
    """Rows as they were published.

    Attributes:
        origin: file or hub address, for messages.
        rows: one dict a row. A row of a JSON object keyed by id carries its key as `_key`.
        classes: names of each column that the schema declares as a class label.
        places: where each row is, for messages ("my.csv, line 7"); empty: by its number.
    """

    origin: str
    rows: list[dict]
    classes: dict[str, list[str]] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    def place(self, index: int) -> str:
        return self.places[index] if self.places else f"{self.origin}, row {index + 1}"


def read_rows(name: str, source: SourceConfig, hub: HubSet | None, evaluation: bool) -> Rows:
    """Read a source, from `source.path` where it is given and from the hub elsewhere.

    Raises:
        ValueError: nothing to read from, a file that is missing, empty or not in a known form, or a hub that did
            not answer.
    """
    rows = _from_path(name, Path(source.path)) if source.path else _from_hub(name, source, hub, evaluation)
    if not rows.rows:
        raise ValueError(f"data set {name}: {rows.origin} holds no rows")
    if source.rows:
        rows.rows, rows.places = rows.rows[: source.rows], rows.places[: source.rows]
    log.info("%s: %d rows from %s", name, len(rows.rows), rows.origin)
    return rows


def _from_hub(name: str, source: SourceConfig, hub: HubSet | None, evaluation: bool) -> Rows:
    import datasets
    from datasets.exceptions import DatasetsError

    if hub is None and not source.hub:
        raise ValueError(f"data set {name}: give `path`, a file of questions, or `hub`, a repository of them")
    hub = hub or HubSet(source.hub)
    repository = source.hub or hub.repository
    subset = source.subset or hub.subset
    split = source.split or (hub.evaluation_split if evaluation else hub.train_split)
    origin = f"hub:{repository}{f'/{subset}' if subset else ''}[{split}]"
    try:
        table = datasets.load_dataset(repository, subset or None, split=split, revision=source.revision or None)
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"data set {name}: could not read {origin}: {error}. Check `hub`, `subset` and `split` (gated sets need a "
            f"login), or download the files and set `path` to them"
        ) from error
    return Rows(origin, table.to_list(), _classes(table.features))


def _from_path(name: str, path: Path) -> Rows:
    if not path.exists():
        raise ValueError(f"data set {name}: path {path} does not exist")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files or len({file.suffix.lower() for file in files}) > 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"data set {name}: folder {path} must hold files of one of {SUFFIXES}; found {found}")
    merged = Rows(str(path), [])
    for file in files:
        try:
            part = _read_file(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"data set {name}: {error}") from error
        merged.rows += part.rows
        merged.places += [part.place(index) for index in range(len(part.rows))]
        merged.classes.update(part.classes)
    return merged


def _read_file(file: Path) -> Rows:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(file)
    if suffix in (".csv", ".tsv"):
        rows, lines = read_csv(file)
        return Rows(str(file), rows, places=[f"{file}, line {line}" for line in lines])
    if suffix in (".json", ".jsonl"):
        rows, places = read_json(file)
        return Rows(str(file), rows, places=[f"{file}, {place}" for place in places])
    raise ValueError(f"{file} has the suffix {file.suffix!r}; expected one of {', '.join(SUFFIXES)}")


def _read_parquet(file: Path) -> Rows:
    """Class labels are kept: `datasets` writes its schema into the file's metadata."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a parquet file ({error})") from error
    return Rows(str(file), table.to_pylist(), _classes(datasets.Features.from_arrow_schema(table.schema)))


def _classes(features: dict) -> dict[str, list[str]]:
    return {column: list(kind.names) for column, kind in features.items() if type(kind).__name__ == "ClassLabel"}
