"""The advisories of a run, row by row: for progress while it trains, and for the report afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from alphamed_nemo.config.run_folder import ACCURACY
from alphamed_nemo.report.advisories import MANY_STEPS, STEPS, TABLE, VALIDATIONS, History, Row

# What most advisories read; a row without one of them (an older run's) is passed over.
KEYS = ("reward/mean", "effective_query_ratio", "response_length/clip_ratio", "unparsable_ratio")


@dataclass(frozen=True)
class Notice:
    """An advisory that holds since a step, or since the validation after it."""

    step: int
    name: str
    text: str


class Watch:
    """Sees the rows of metrics.jsonl in order and says what is new.

    Each advisory is told once, and again only after it has ceased to hold, or once it holds of more (another level).
    """

    def __init__(self) -> None:
        self.history = History()
        self.told: dict[str, set[str]] = {}  # name of an advisory that holds → what it is about
        self.rewards: list[float] = []  # since the last validation

    def see(self, row: Row) -> list[Notice]:
        """The advisories that hold since this step, or since this validation. A row may be of both."""
        new = self._see_step(row) if all(row.get(key) is not None for key in KEYS) else []
        if row.get(ACCURACY) is not None:
            new += self._see_validation(row)
        return new

    def _see_step(self, row: Row) -> list[Notice]:
        history = self.history
        if len(history.first) < STEPS:
            history.first.append(row)
        history.seen += 1
        history.rows = [*history.rows, row][-MANY_STEPS:]
        self.rewards.append(row["reward/mean"])
        found = {each.name: text for each in TABLE if (text := each.finds(history))}
        about = {each.name: set(each.about(history)) for each in TABLE if each.name in found}
        new = {name: text for name, text in found.items() if name not in self.told or about[name] - self.told[name]}
        self.told = about
        return _notices(row, new)

    def _see_validation(self, row: Row) -> list[Notice]:
        if not self.rewards:  # that of the base model
            return []
        history = self.history
        history.validated = [*history.validated, (fmean(self.rewards), row[ACCURACY])][-VALIDATIONS:]
        self.rewards.clear()
        found = {each.name: text for each in TABLE if (text := each.finds(history)) and each.name not in self.told}
        if found:
            history.validated = []  # to be told again, it has to go on as long once more
        return _notices(row, found)


def notices(rows: Iterable[Row]) -> list[Notice]:
    """All that a run was warned of, in order."""
    watch = Watch()
    return [notice for row in rows for notice in watch.see(row)]


def _notices(row: Row, found: dict[str, str]) -> list[Notice]:
    remedies = {each.name: each.remedy for each in TABLE}
    return [Notice(int(row.get("step", 0)), name, f"{text}: {remedies[name]}") for name, text in found.items()]
