"""A weighted reward is shown as one, and right answers apart: on the page, in comparisons, warnings and progress."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alphamed_nemo.cli.progress import step_text
from alphamed_nemo.report.advisories import STEPS
from alphamed_nemo.report.html import build_comparison, build_report
from alphamed_nemo.report.watch import notices
from tests.unit.synthetic_run import make_run

PARTS = {"reward/correct": 0.75, "reward/own": -0.5, "reward/own/part": 0.25}
ROW = {"reward/mean": 1.5, "effective_query_ratio": 0.5, "response_length/clip_ratio": 0.0, "unparsable_ratio": 0.0}


def weighted(root: Path) -> Path:
    """A run whose reward goes above 1, and whose first response was wrong and rewarded all the same."""
    run = make_run(root)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = (json.dumps(row | PARTS | {"reward/mean": 1.5}) for row in rows)
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    for path in (run / "samples").glob("*.jsonl"):
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        samples = [sample | {"reward": 0.2, "parts": {"correct": sample["reward"]}} for sample in samples]
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return run


def captions(page: str) -> dict[str, str]:
    return dict(re.findall(r"<figcaption><strong>([^<]*)</strong><span>([^<]*)</span>", page))


def verdicts(page: str) -> list[str]:
    return re.findall(r'<span class="verdict">(\w+)</span>', page)


def test_the_page_names_what_each_chart_shows(tmp_path: Path):
    page = build_report(weighted(tmp_path / "run")).read_text()
    charts = captions(page)
    assert "Reward" not in charts
    assert charts["Weighted reward"].startswith("Mean weighted sum of the reward functions")
    assert charts["Correct answers"] == "Share of sampled responses whose final answer is correct."
    assert charts["Reward functions"].startswith("Mean of each reward function")
    assert "own/part" in page and "Mean weighted reward" in page


def test_a_sample_is_right_by_its_answer_and_not_by_its_reward(tmp_path: Path):
    plain = build_report(make_run(tmp_path / "plain")).read_text()
    page = build_report(weighted(tmp_path / "run")).read_text()
    assert verdicts(page) == verdicts(plain) and {"right", "wrong"} == set(verdicts(plain))
    assert "weighted reward 0.20" in page and "weighted reward" not in plain


def test_a_run_by_the_rule_alone_has_the_charts_of_before(tmp_path: Path):
    charts = captions(build_report(make_run(tmp_path / "run")).read_text())
    assert charts["Reward"] == "Share of sampled responses whose final answer is correct."
    assert not {"Weighted reward", "Correct answers", "Reward functions"} & set(charts)


def test_a_comparison_sets_right_answers_beside_right_answers(tmp_path: Path):
    runs = [make_run(tmp_path / "plain"), weighted(tmp_path / "weighted")]
    charts = captions(build_comparison(runs, tmp_path / "out.html").read_text())
    assert {"Weighted reward", "Correct answers"} <= set(charts) and "Reward" not in charts


def told(**row: float) -> dict[str, str]:
    return {notice.name: notice.text for notice in notices([ROW | row] * STEPS)}


@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_warnings_speak_of_right_answers(mean: float):
    found = told(**{"reward/mean": mean, "reward/correct": 0.0})
    assert "no response was right" in found["no reward"]
    assert "other reward functions alone give a gradient" in found["no reward"]
    flat = told(**{"reward/mean": mean, "reward/correct": 0.0, "effective_query_ratio": 0.0})
    assert "there is no gradient" in flat["no reward"]


def test_a_weighted_reward_of_0_is_no_sign_of_wrong_answers():
    assert told(**{"reward/mean": 0.0, "reward/correct": 0.5}) == {}


def test_equal_rewards_are_called_equal():
    text = told(**{"reward/correct": 0.75, "effective_query_ratio": 0.0})["no gradient"]
    assert "had equal rewards for 3 steps (75% right)" in text


def test_progress_shows_both():
    assert step_text({"reward/mean": 1.5, "reward/correct": 0.75}) == "reward 1.50  correct 75%"
    assert step_text({"reward/mean": 0.5}) == "reward 0.50"
