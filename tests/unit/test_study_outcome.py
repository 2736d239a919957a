"""The numbers of a study: intervals and tests over seeds against SciPy's own, and what is said of them by rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from alphamed_nemo.evaluation.paired import holm
from alphamed_nemo.evaluation.stats import wilson
from alphamed_nemo.study.findings import limits, shows
from alphamed_nemo.study.outcome import StudyOutcome, mean_interval, mean_p, read_outcome
from alphamed_nemo.study.study_record import write_record
from tests.unit.synthetic_study import HELD_OUT, make_study

SIZES = "study.sizes=[25,50,100]"
RISING = [[0.50, 0.52, 0.51], [0.60, 0.63, 0.61], [0.62, 0.61, 0.63]]


def outcome_of(root: Path, accuracies: list[list[float]], *overrides: str) -> StudyOutcome:
    return read_outcome(*make_study(root, accuracies, *overrides))


@pytest.mark.parametrize("values", [[0.1, 0.2], [0.5, 0.52, 0.49], [0.9, 0.91, 0.95, 0.9, 0.97]])
def test_intervals_and_p_values_over_seeds_are_students(values: list[float]) -> None:
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert mean_p(values) == pytest.approx(test.pvalue, rel=1e-9)


def test_runs_of_one_seed_are_paired(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, RISING, SIZES)
    pairs = [(0, 1), (1, 2), (0, 2)]  # neighbours, and the first with the last
    tests = [stats.ttest_rel(RISING[second], RISING[first]) for first, second in pairs]
    assert [each.p for each in outcome.comparisons] == pytest.approx([test.pvalue for test in tests], rel=1e-6)
    assert [each.adjusted for each in outcome.comparisons] == pytest.approx(holm([test.pvalue for test in tests]))
    first = outcome.comparisons[0]
    assert (first.first, first.second, first.seeds) == ("150 questions", "300 questions", 3)
    assert first.difference == pytest.approx(0.31 / 3)


def test_one_seed_is_compared_over_the_questions(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [[0.5], [0.9], [0.9]], SIZES)
    first, second = (variant.runs[0].result for variant in outcome.variants[:2])
    assert outcome.comparisons[0].p == first.compare(second).p
    assert outcome.variants[0].interval == wilson(100, HELD_OUT)
    assert any("One seed: intervals and tests are over the questions" in line for line in limits(outcome))
    assert any("of one run each" in line for line in shows(outcome))


def test_only_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [[0.50, 0.52, 0.51], [0.60, 0.63], []], SIZES)
    assert [each.seeds for each in outcome.comparisons] == [2]
    assert (outcome.runs, outcome.planned, len(outcome.finished)) == (5, 9, 2)
    assert any(line.startswith("5 of 9 runs are finished") for line in limits(outcome))


def test_what_is_shown_follows_from_the_numbers(tmp_path: Path) -> None:
    shown = shows(outcome_of(tmp_path / "up", RISING, SIZES))
    assert shown[0].startswith("All 9 runs are above the base model's 95% interval (19.5% to 31.4%): 50.0% to 63.0%")
    assert [line for line in shown if "“300 questions” is 10.3 points better than “150 questions”" in line]
    shown = shows(outcome_of(tmp_path / "down", [[0.60, 0.63, 0.61], [0.50, 0.52, 0.51]], "study.sizes=[25,50]"))
    assert any("“300 questions” is 10.3 points worse than “150 questions”" in line for line in shown)
    shown = shows(outcome_of(tmp_path / "none", [[0.50, 0.60], [0.60, 0.50]], "study.sizes=[25,50]"))
    assert any(line.startswith("No difference between variants is larger than chance explains") for line in shown)
    shown = shows(outcome_of(tmp_path / "base", [[0.25, 0.26], [0.60, 0.50]], "study.sizes=[25,50]"))
    assert shown[0].startswith("2 of 4 runs are above the base model's")
    assert not any("better" in line or "worse" in line for line in shown[:1])


def test_nothing_is_shown_before_a_run_is_finished(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [[], [], []], SIZES, "study.seeds=1")
    assert shows(outcome) == [] and outcome.comparisons == ()
    assert any(line.startswith("0 of 3 runs") for line in limits(outcome))


def test_what_cannot_be_shown_is_said_where_it_is_so_and_not_elsewhere(tmp_path: Path) -> None:
    def said(words: str, outcome: StudyOutcome) -> bool:
        return any(words in line for line in limits(outcome))

    sizes = outcome_of(tmp_path / "a", RISING, SIZES)
    full = outcome_of(tmp_path / "b", [[0.99, 0.985], [0.99, 0.98]], "study.sizes=[25,50]")
    assert said("no room left", full) and not said("no room left", sizes)
    assert said("3 seeds are few", sizes) and said("2 seeds are few", full)
    assert said("Every run has the same compute", sizes)
    growing = outcome_of(tmp_path / "c", RISING, "study.name=difficulty", "study.bands=[1-2,1-3,1-4]")
    same = ("study.name=difficulty", "study.bands=[1,2,3]")
    assert said("levels and quantity are not told apart", growing)
    assert not said("not told apart", outcome_of(tmp_path / "d", RISING, *same)) and not said("not told apart", sizes)
    assert not said("the same compute", outcome_of(tmp_path / "e", RISING, *same))
    assert said("filled from their neighbours", outcome_of(tmp_path / "f", RISING, "study.sizes=[50,100,266]"))
    assert not said("filled from", sizes)
    assert said(
        "ended before all of their questions were asked", outcome_of(tmp_path / "h", RISING, SIZES, "grpo.steps=9")
    )
    assert not said("ended before", sizes)
    equal = outcome_of(tmp_path / "g", [[0.50, 0.60], [0.60, 0.70]], "study.sizes=[25,50]")
    assert said("Every seed gives the same difference", equal) and equal.comparisons[0].p is None
    assert any("No two variants have been tested" in line for line in shows(equal))


def test_study_json_is_written_while_variants_have_no_run(tmp_path: Path) -> None:
    found = json.loads(write_record(outcome_of(tmp_path, [[0.5], [], []], SIZES)).read_text())
    assert [len(variant["runs"]) for variant in found["variants"]] == [1, 0, 0]
    assert found["variants"][0]["mean"] == 0.5 and "mean" not in found["variants"][1]


def test_study_json_holds_what_the_page_shows(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, RISING, SIZES)
    found = json.loads(write_record(outcome).read_text())
    assert found["study"] == "quantity" and found["runs"] == {"finished": 9, "planned": 9}
    assert [variant["mean"] for variant in found["variants"]] == pytest.approx([0.51, 0.613333333, 0.62])
    assert found["variants"][0]["runs"][2]["folder"] == "questions_150-seed3"
    assert found["variants"][0]["passes"] == 30 * 32 / 150
    assert found["comparisons"][0]["test"] == "Student's, paired by seed"
    assert found["base"][0]["guessing"] == 0.25
