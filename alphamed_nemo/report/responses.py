"""The page of a run's responses: report/responses.html, and report/responses/ with what it loads.

It opens from a disk, without a server or a network. `responses/index_<build>.js` holds the numbers of every response,
`responses/chunk_<build>_<n>.js` the texts, and the page loads those that it shows.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from alphamed_nemo.config.file_writing import remove_parts
from alphamed_nemo.config.run_folder import RunFolder, by_step
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_table import count_rows
from alphamed_nemo.report.response_index import ResponseIndex
from alphamed_nemo.report.response_texts import TextFiles, script_json, write_script

MEGABYTE = 1_000_000
LISTED = 500_000  # responses at most: Firefox draws no list taller than 17.8 million pixels, and a row has 34
SCRIPTS = ("responses_data.js", "responses_list.js", "responses_detail.js", "responses_page.js")  # in their order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResponsesPage:
    """What was written.

    Attributes:
        path: the page.
        build: names the files that belong to it.
        kept, kept_steps: what the run has kept.
        listed, listed_steps: how much of it is in the list.
        texts: responses whose text is there, too.
        limit: of the texts, in megabytes.
        questions: that were asked.
        unknown: those whose text was not found.
    """

    path: Path
    build: str
    kept: int
    kept_steps: int
    listed: int
    listed_steps: int
    texts: int
    limit: int
    questions: int
    unknown: int


def write_responses(folder: RunFolder, questions: str, limit: int) -> ResponsesPage | None:
    """Writes all but the page itself. None: no rollouts were kept, or `limit` is 0.

    Args:
        folder: the run.
        questions: its `grpo.questions`, for texts and levels; where there is no such file, ids are all that is shown.
        limit: megabytes of texts, `report.responses_mb`. Where a run has more, it is that of steps spread over the run.

    Raises:
        ValueError: a file of rollouts or questions cannot be read; names it.
        OSError: the disk refuses; names the file.
    """
    paths = by_step(folder.rollouts, ".parquet") if limit else {}
    if not paths:
        return None
    sizes = {step: count_rows(path) for step, path in paths.items()}
    known = _questions(folder, questions)
    index, first = ResponseIndex(known), {}
    for step in _listed(sizes):
        first[step] = index.add(step, paths[step])
    build = index.digest(limit, len(known))
    texts = TextFiles(folder.responses_data, build, known, limit * MEGABYTE)
    for step in spread(list(first)):
        texts.add(paths[step], first[step])
        if texts.full:
            break
    content = index.columns() | {"build": build, "chunks": texts.chunks}
    write_script(folder.responses_data / f"index_{build}.js", f"alphamedIndex({script_json(content)});\n")
    for name in SCRIPTS:
        source = files("alphamed_nemo.report") / "templates" / name
        write_script(folder.responses_data / name, source.read_text(encoding="utf-8"))
    return ResponsesPage(
        path=folder.responses,
        build=build,
        kept=sum(sizes.values()),
        kept_steps=len(paths),
        listed=len(index),
        listed_steps=len(index.steps),
        texts=sum(rows for _, rows in texts.chunks),
        limit=limit,
        questions=len(index.questions),
        unknown=sum(id not in known for id in index.questions),
    )


def remove_others(folder: RunFolder, build: str | None) -> None:
    """Removes what earlier pages of responses loaded; where there is no page now, all of it."""
    if build is None:
        folder.responses.unlink(missing_ok=True)
        shutil.rmtree(folder.responses_data, ignore_errors=True)
        return
    remove_parts(folder.responses_data)
    for path in folder.responses_data.glob("[ci]*_*.js"):
        if not path.name.startswith((f"index_{build}", f"chunk_{build}_")):
            path.unlink(missing_ok=True)


def spread(items: Sequence[int]) -> Iterator[int]:
    """The items in an order of which every beginning is spread over all of them: first, last, middle, quarters, …"""
    yield from (items[0], items[-1]) if len(items) > 1 else items
    waiting = [(0, len(items) - 1)]
    while waiting:
        later = []
        for low, high in waiting:
            if high - low > 1:
                middle = (low + high) // 2
                yield items[middle]
                later += [(low, middle), (middle, high)]
        waiting = later


def _listed(sizes: Mapping[int, int]) -> list[int]:
    """The steps whose responses are in the list: all, or as many as it has room for, spread over the run."""
    found, rows = [], 0
    for step in spread(list(sizes)):
        rows += sizes[step]
        if found and rows > LISTED:
            break
        found.append(step)
    return sorted(found)


def _questions(folder: RunFolder, path: str) -> dict[str, Question]:
    for place in (Path(path) if path else None, folder.subset):
        if place is not None and place.is_file():
            return {question.id: question for question in read_questions(place)}
    log.warning("%s: no such file; the page of responses shows questions by id alone", path or folder.subset)
    return {}
