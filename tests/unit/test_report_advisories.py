"""Advisories: an input that raises each and one that does not, that each is told once, and where it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from alphamed_nemo.cli.progress import GrpoProgress
from alphamed_nemo.report.advisories import LEVEL, MANY_STEPS, STEPS, TABLE
from alphamed_nemo.report.html import build_report
from alphamed_nemo.report.watch import Notice, Watch, notices
from tests.unit.synthetic_run import make_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "advisories.md"
Rows = list[dict[str, float]]

GOOD = {
    "reward/mean": 0.4,
    "effective_query_ratio": 0.6,
    "effective_query_ratio/L1": 0.5,
    "effective_query_ratio/L6": 0.7,
    "response_length/clip_ratio": 0.1,
    "response_length/mean": 300.0,
    "unparsable_ratio": 0.1,
    "entropy": 0.8,
    "logprob_difference_mean": 1e-3,
    "logprob_difference_limit": 1e-2,
    "throughput/mfu": 0.35,
    "timing/step": 100.0,
    "timing/generation": 60.0,
    "question_passes": 1.0,
}


def run_of(*rows: dict[str, float]) -> list[Notice]:
    """What is told of a run with these rows, on top of a good one's."""
    steps = [GOOD | {"step": step, "weight_version": step - 1.0} | row for step, row in enumerate(rows, start=1)]
    return notices(steps)


def told(*rows: dict[str, float]) -> list[str]:
    return [notice.text for notice in run_of(*rows)]


START: Rows = [{}] * STEPS
STALE = {"step": 9, "weight_version": 7.0}
# name → rows that raise it, a word of what is told, rows that do not
CASES: dict[str, tuple[Rows, str, Rows]] = {
    "no reward": (
        [{"reward/mean": 0.0, "effective_query_ratio": 0.0, "unparsable_ratio": 0.93}] * STEPS,
        "no response was right for 3 steps, so there is no gradient; 93% had no answer",
        [{"reward/mean": 0.01}] * STEPS,
    ),
    "no gradient": (
        [{"reward/mean": 1.0, "effective_query_ratio": 0.0}] * STEPS,
        "all right or all wrong for 3 steps (100% right)",
        [{"reward/mean": 1.0, "effective_query_ratio": 0.01}] * STEPS,
    ),
    "level without a gradient": (
        [{"effective_query_ratio/L6": 0.0}] * MANY_STEPS,
        "questions of L6 gave no gradient for 10 steps",
        [*[{"effective_query_ratio/L6": 0.0}] * (MANY_STEPS - 1), {}],
    ),
    "all truncated": (
        [{"response_length/clip_ratio": 1.0}],
        "every response was cut off (with grpo.mask_truncated nothing was trained on): raise rollout.",
        [{"response_length/clip_ratio": 0.99}],
    ),
    "truncated": (
        [{"response_length/clip_ratio": 0.81}] * STEPS,
        "81% of the responses were cut off for 3 steps",
        [{"response_length/clip_ratio": 0.5}] * STEPS,
    ),
    "length running away": (
        [*START, *[{"response_length/mean": 700.0, "reward/mean": 0.45}] * STEPS],
        "responses went from 300 tokens in the first steps to 700, and right answers by +5 points",
        [*START, *[{"response_length/mean": 700.0, "reward/mean": 0.55}] * STEPS],
    ),
    "entropy collapse": (
        [*START, *[{"entropy": 0.05}] * STEPS],
        "entropy fell from 0.8 nats per token in the first steps to 0.05",
        [*START, *[{"entropy": 0.05, "reward/mean": 0.95}] * STEPS],
    ),
    "mismatch growing": (
        [*START, *[{"logprob_difference_mean": 6e-3}] * STEPS],
        "differ by 6.0e-03 nats per token, from 1.0e-03 in the first steps; the run stops at 1.0e-02",
        [*START, *[{"logprob_difference_mean": 4e-3}] * STEPS],
    ),
    "unparsable": (
        [{"unparsable_ratio": 0.4}] * MANY_STEPS,
        "40% of the responses had no answer that can be read for 10 steps",
        [{"unparsable_ratio": 0.4}] * (MANY_STEPS - 1),
    ),
    "low MFU": (
        [{"throughput/mfu": 0.1}] * STEPS,
        "training used 10% of the GPUs' BF16 peak for 3 steps",
        [{"throughput/mfu": 0.2}] * STEPS,
    ),
    "servers idle": (
        [STALE | {"timing/generation": 30.0}] * STEPS,
        "rollout servers sampled 30% of the time for 3 steps",
        [{"timing/generation": 30.0}] * STEPS,  # on-policy: trainer and servers take turns
    ),
    "same questions too often": (
        [{"question_passes": 10.5}],
        "every question has been asked 10 times",
        [{"question_passes": 9.9}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_advisory_is_told_where_it_holds_and_not_where_it_does_not(name: str):
    raising, words, usual = CASES[name]
    (notice,) = [each for each in run_of(*raising) if each.name == name]
    assert words in notice.text and len(notice.text.splitlines()) == 1
    assert notice.text.endswith(next(each.remedy for each in TABLE if each.name == name))
    assert name not in [each.name for each in run_of(*usual)]


def test_every_advisory_is_tested():
    assert [*CASES, "reward up, validation not"] == [each.name for each in TABLE]


@pytest.mark.parametrize("key", ["throughput/mfu", "entropy", "logprob_difference_limit", "timing/generation"])
def test_what_a_run_does_not_record_is_not_told_of(key: str):
    rows = [{name: value for name, value in GOOD.items() if name != key} | {"step": n} for n in range(1, 20)]
    assert notices(rows) == []


def test_what_holds_for_three_steps_is_told_once():
    row = {"reward/mean": 0.0, "effective_query_ratio": 0.0}
    (text,) = told(*[row] * 5)
    assert told(*[row] * (STEPS - 1)) == []
    assert told(row, row, {}, row, row) == []


def test_a_step_whose_responses_were_all_cut_off_is_told_of_at_once_and_once():
    cut = {"response_length/clip_ratio": 1.0}
    assert len(told(cut, cut)) == 1
    assert len(told(cut, {}, cut)) == 2


def test_it_is_told_again_after_it_has_ceased():
    row = {"response_length/clip_ratio": 0.9}
    assert len(told(*[row] * 4, {}, *[row] * 4)) == 2


def test_each_level_without_a_gradient_is_named_once_it_has_none():
    sixth = {"effective_query_ratio/L6": 0.0}
    both = sixth | {"effective_query_ratio/L1": 0.0, "effective_query_ratio/L3": 0.9}
    notices = run_of(*[sixth] * MANY_STEPS, *[both] * (MANY_STEPS + 5))
    assert [(notice.step, notice.name, notice.text.partition(" gave")[0]) for notice in notices] == [
        (MANY_STEPS, "level without a gradient", "questions of L6"),
        (2 * MANY_STEPS, "level without a gradient", "questions of L1, L6"),
    ]


def stretches(*pairs: tuple[float, float]) -> Rows:
    """Rows of two steps and their validation, for each (mean reward, accuracy)."""
    rows: Rows = [{"validation/accuracy": 0.3}]  # of the base model
    for reward, accuracy in pairs:
        rows += [GOOD | {"reward/mean": reward - 0.01}, GOOD | {"reward/mean": reward + 0.01}]
        rows.append({"validation/accuracy": accuracy})
    return rows


def between_validations(*pairs: tuple[float, float]) -> list[str]:
    return [notice.text for notice in notices(stretches(*pairs))]


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


def test_a_row_of_a_step_and_its_validation_tells_what_both_rows_tell():
    rows = stretches((0.4, 0.55), (0.5, 0.52), (0.6, 0.54))
    joined: Rows = []
    for row in rows:
        if "validation/accuracy" in row and joined:
            joined[-1] = joined[-1] | row
        else:
            joined.append(row)
    assert notices(joined) == notices(rows) != []


def test_a_usual_run_and_an_older_runs_rows_say_nothing():
    assert told(*[{}] * 30) == []
    assert Watch().see({"reward/mean": 0.0}) == []


def test_progress_shows_it_under_its_step():
    screen = io.StringIO()
    with GrpoProgress(5, Console(file=screen, width=400)) as progress:
        for step in range(1, 6):
            progress.update(GOOD | {"step": step, "reward/mean": 0.0, "effective_query_ratio": 0.0})
    lines = screen.getvalue().splitlines()
    assert lines[-1].startswith("saving")
    assert len(lines) == 7 and lines[3].startswith("warning: step 3: no response was right")


def test_the_report_shows_what_the_run_was_warned_of(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    assert "Warnings" not in build_report(folder).read_text()
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"response_length/clip_ratio": 0.9}) + "\n" for row in rows))
    page = build_report(folder).read_text()
    assert "<h2>Warnings</h2>" in page and "<td>step 3</td><td>truncated</td><td>90% of the responses" in page


def test_the_report_names_the_level_without_a_gradient(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if not name.startswith(LEVEL)} for row in rows]
    levels = {f"{LEVEL}1": 0.5, f"{LEVEL}4": 0.0}
    file.write_text("".join(json.dumps(row | levels) + "\n" for row in rows))
    page = build_report(folder).read_text()
    assert "<td>level without a gradient</td><td>questions of L4 gave no gradient for 10 steps" in page


def test_the_page_shows_the_table():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    expected = [f"| {each.name} | {each.threshold} | {each.reason} | {each.remedy} |" for each in TABLE]
    assert rows[2:] == expected
