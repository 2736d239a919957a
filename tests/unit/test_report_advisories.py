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


def test_a_step_whose_responses_were_all_cut_off_is_told_of_at_once_and_once():
    (text,) = told({"response_length/clip_ratio": 1.0}, {"response_length/clip_ratio": 1.0})
    assert text.startswith(
        "every response was cut off (with grpo.mask_truncated nothing was trained on): raise rollout."
    )
    assert told({"response_length/clip_ratio": 0.99}) == []
    assert len(told({"response_length/clip_ratio": 1.0}, {}, {"response_length/clip_ratio": 1.0})) == 2


def test_it_is_told_again_after_it_has_ceased():
    row = {"response_length/clip_ratio": 0.9}
    assert len(told(*[row] * 4, {}, *[row] * 4)) == 2


def between_validations(*pairs: tuple[float, float]) -> list[str]:
    """(mean reward, accuracy) of each stretch of two steps and its validation."""
    rows = [{"validation/accuracy": 0.3}]  # of the base model
    for reward, accuracy in pairs:
        rows += [GOOD | {"reward/mean": reward - 0.01}, GOOD | {"reward/mean": reward + 0.01}]
        rows.append({"validation/accuracy": accuracy})
    watch = Watch()
    return [text for row in rows for text in watch.see(row)]


def test_a_reward_that_rises_while_validation_does_not_is_told():
    (text,) = between_validations((0.4, 0.55), (0.5, 0.52), (0.6, 0.54), (0.7, 0.54))
    assert text.startswith("the mean reward rose from 0.40 to 0.60 over 3 validations, whose accuracy went from 55.0%")
    assert len(between_validations((0.4, 0.5), (0.5, 0.5), (0.6, 0.5), (0.7, 0.5), (0.8, 0.5), (0.9, 0.5))) == 2


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.4, 0.5), (0.5, 0.52), (0.6, 0.55), (0.7, 0.6)],  # both rise
        [(0.4, 0.5), (0.42, 0.48), (0.45, 0.49)],  # the reward hardly does
        [(0.4, 0.5), (0.6, 0.48)],  # too early to tell
    ],
)
def test_a_run_whose_validation_keeps_up_is_not_warned(pairs):
    assert between_validations(*pairs) == []


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
