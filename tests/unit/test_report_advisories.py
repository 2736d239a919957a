"""Advisories: what raises each, what does not, and that each is told once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from alphamed_nemo.cli.progress import GrpoProgress
from alphamed_nemo.report.advisories import STEPS, Watch

GOOD = {
    "reward/mean": 0.4,
    "effective_query_ratio": 0.6,
    "response_length/clip_ratio": 0.1,
    "unparsable_ratio": 0.1,
}


def told(*rows: dict[str, float]) -> list[str]:
    watch = Watch()
    return [text for row in rows for text in watch.see(GOOD | row)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"reward/mean": 0.0, "effective_query_ratio": 0.0}, "no response was right for 3 steps"),
        ({"reward/mean": 0.0, "effective_query_ratio": 0.0, "unparsable_ratio": 0.93}, "93% had no answer"),
        ({"reward/mean": 1.0, "effective_query_ratio": 0.0}, "all right or all wrong for 3 steps (100% right)"),
        ({"response_length/clip_ratio": 0.81}, "81% of the responses were cut off for 3 steps"),
    ],
)
def test_what_holds_for_three_steps_is_told_once(row: dict[str, float], words: str):
    (text,) = told(*[row] * 5)
    assert words in text and len(text.splitlines()) == 1
    assert told(*[row] * (STEPS - 1)) == []
    assert told(row, row, {}, row, row) == []


def test_it_is_told_again_after_it_has_ceased():
    row = {"response_length/clip_ratio": 0.9}
    assert len(told(*[row] * 4, {}, *[row] * 4)) == 2


def test_a_usual_run_and_an_older_runs_rows_say_nothing():
    assert told(*[{}] * 10) == []
    assert Watch().see({"reward/mean": 0.0}) == []


def test_progress_shows_it_under_its_step():
    screen = io.StringIO()
    with GrpoProgress(5, Console(file=screen, width=400)) as progress:
        for step in range(1, 6):
            progress.update(GOOD | {"step": step, "reward/mean": 0.0, "effective_query_ratio": 0.0})
    lines = screen.getvalue().splitlines()
    assert lines[-1].startswith("saving")
    assert len(lines) == 7 and lines[3].startswith("warning: step 3: no response was right")
