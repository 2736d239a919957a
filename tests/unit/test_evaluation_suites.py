"""Suites: their tasks from prepared sets, their page, and the results in lm-evaluation-harness's form."""

from __future__ import annotations

import json
from statistics import stdev

import msgspec
import pytest
import yaml

from alphamed_nemo.config.choices import Suite, names
from alphamed_nemo.config.schema import EvaluateConfig
from alphamed_nemo.config.sources import SourcesConfig
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.grading import grade_set
from alphamed_nemo.evaluation.harness import standard_error
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.suite_page import write_suite
from alphamed_nemo.evaluation.suite_results import read_suites
from alphamed_nemo.evaluation.suites import SUITES, tasks_of
from alphamed_nemo.export.card_results import OWN, Row, section
from alphamed_nemo.report.html import build_report
from tests.documented import ROOT

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "evaluation"
    for name in ("medqa", "medmcqa", "medxpertqa"):
        asked = [Question(f"{name}-{i}", name, f"Which is {i}?", OPTIONS, "ABCD"[i % 4]) for i in range(12)]
        write_questions(asked, folder / f"{name}.parquet")
    return folder


def answered(tasks, right: bool) -> dict[str, EvaluationResult]:
    """Every task answered by the key, or by the first letter."""
    results = {}
    for task in tasks:
        texts = {q.id: [rf"\boxed{{{q.answer if right else 'A'}}}"] for q in task.questions}
        rows = {
            id: {"id": id, "responses": [{"text": t, "length": 7, "truncated": False} for t in given]}
            for id, given in texts.items()
        }
        settings = {"model": "models/a:b", "protocol": "boxed", "samples": 1, "questions": "0" * 16, "seed": 1}
        results[task.name] = EvaluationResult(
            "m", settings, grade_set(task.questions, texts, "boxed"), rows, mean_length=7.0, truncated_ratio=0.0
        )
    return results


def test_every_suite_is_a_choice_and_its_sets_are_those_that_its_sources_prepare():
    assert set(names(Suite)) == {"", *SUITES}
    for suite in SUITES.values():
        content: dict = {}
        for name in suite.sources.strip("[]").split(","):
            content |= yaml.safe_load((ROOT / "conf" / "sources" / f"{name}.yaml").read_text())["evaluation"]
        assert set(suite.sets) <= set(SourcesConfig(evaluation=content).evaluation)


def test_robust_asks_each_set_in_every_way(prepared):
    tasks = tasks_of(EvaluateConfig(suite="robust"), prepared, 1)
    assert [task.name for task in tasks[:6]] == [
        "medqa",
        "medqa-shuffled",
        "medqa-relabelled",
        "medqa-none_of_others",
        "medqa-alphamed_bracketed",
        "medqa-alphamed_headed",
    ]
    assert len(tasks) == 18 and all(len(task.questions) == 12 for task in tasks)
    assert tasks[1].questions != tasks[0].questions == tasks[4].questions
    assert tasks_of(EvaluateConfig(suite="robust"), prepared, 1) == tasks
    assert [t.name for t in tasks_of(EvaluateConfig(suite="paper", sets=["medqa"]), prepared, 1)] == ["medqa"]


def test_sets_that_are_not_prepared_are_named_with_the_way_to_them(prepared):
    with pytest.raises(ValueError, match="has no pubmedqa, mmlu_pro, gpqa; prepare them with .* sources=benchmarks"):
        tasks_of(EvaluateConfig(suite="paper"), prepared, 1)


def test_the_page_shows_accuracy_changes_and_who_follows_letters(prepared, tmp_path):
    tasks = tasks_of(EvaluateConfig(suite="robust", sets=["medqa"]), prepared, 1)
    table = write_suite(tmp_path / "a", "m", "robust", tasks, answered(tasks, right=True))
    assert "| medqa | 12 | 100.0 [75.8, 100.0] | 25.0 |" in table and "| medqa | shuffled | 100.0 |" in table
    page = (tmp_path / "a" / "suite.md").read_text()
    assert (
        all(line in page.splitlines() for line in table.splitlines() if line)
        and "| medqa | shuffled | 100.0 | +0.0 [" in page
        and "| 0 | 0.0 of 12 |" in page
    )
    write_suite(tmp_path / "b", "m", "robust", tasks, answered(tasks, right=False))
    assert "| 100.0 of 12 |" in (tmp_path / "b" / "suite.md").read_text()
    assert "| medqa | alphamed headed | 25.0 | +0.0 [" in (tmp_path / "b" / "suite.md").read_text()


def test_the_page_has_one_row_for_each_set_in_each_table_and_one_for_the_run(prepared, tmp_path):
    tasks = tasks_of(EvaluateConfig(suite="paper", sets=["medqa", "medmcqa", "medxpertqa"]), prepared, 1)
    results = answered(tasks, right=True)
    for result in results.values():  # a second sample of every question
        result.settings["samples"] = 2
        result.grades = [msgspec.structs.replace(g, answers=(*g.answers, "A"), words=20) for g in result.grades]
    results["medqa"].grades = [msgspec.structs.replace(g, words=60) for g in results["medqa"].grades[:6]] + results[
        "medqa"
    ].grades[6:]
    write_suite(tmp_path, "m", "paper", tasks, results)
    page = (tmp_path / "suite.md").read_text()
    assert page.startswith("# m: suite paper\n\nModel `models/a:b`, protocol boxed, 2 samples per question.\n")
    assert "| mean of the sets | – | 62.5 |" in page
    assert [line for line in page.splitlines() if line.startswith("| m |")] == [
        "| m | 62.5 (n = 12) | 62.5 (n = 12) | – | – | – | 62.5 (n = 12) | this run, protocol boxed |"
    ]
    _, by_words = page.split("## By words of the question, with context and options")
    table = by_words.split("\n\n")[2].splitlines()
    assert table[0] == "| set | 0 to 24 | 50 to 99 |" and table[2].startswith("| medqa | ") and len(table) == 3
    assert "| set | 1 of 2 | 2 of 2 | calibration error |" in page and "| set | 1 | 2 |" in page


def test_the_harness_form_has_what_its_readers_take(prepared, tmp_path):
    """The keys of lm_eval's EvalResults that its own table, W&B and Zeno scripts read."""
    tasks = tasks_of(EvaluateConfig(suite="robust", sets=["medqa", "medmcqa"]), prepared, 1)
    results = answered(tasks, right=False)
    for _ in range(2):  # a second writing leaves one file
        write_suite(tmp_path, "m", "robust", tasks, results)
    (path,) = tmp_path.glob("results_*.json")
    record = json.loads(path.read_text())
    tasks_named = {task.name for task in tasks}
    for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks"):
        assert set(record[key]) == tasks_named
    row = record["results"]["medqa"]
    assert (row["alias"], row["sample_len"], row["exact_match,boxed"]) == ("medqa", 12, 0.25)
    by_hand = stdev([1.0 if i % 4 == 0 else 0.0 for i in range(12)]) / 12**0.5
    assert row["exact_match_stderr,boxed"] == pytest.approx(by_hand)
    for name, metrics in record["results"].items():
        for metric in metrics:
            kind = metric.partition(",")[0].removesuffix("_stderr")
            assert kind in ("name", "alias", "sample_len") or kind in record["higher_is_better"][name]
    assert record["n-samples"]["medqa"] == {"original": 12, "effective": 12}
    assert record["model_name"] == "models/a:b" and record["model_name_sanitized"] == "models__a__b"
    assert record["config"]["model_args"] == {"pretrained": "models/a:b"} and record["date"] > 1.7e9


def test_one_question_has_no_standard_error(prepared):
    (task,) = tasks_of(EvaluateConfig(suite="paper", sets=["medqa"]), prepared, 1)
    result = answered([task], right=True)["medqa"]
    result.grades = result.grades[:1]
    assert standard_error(result) == "N/A"


def test_card_and_report_show_a_complete_suite_with_its_sets_as_they_are(prepared, tmp_path):
    tasks = tasks_of(EvaluateConfig(suite="robust"), prepared, 1)
    folder = tmp_path / "run" / "eval" / "m-robust"
    results = answered(tasks, right=True)
    for name, result in results.items():
        result.write(folder / f"{name}.json")
    assert read_suites(folder.parent) == []  # killed before its page: not complete
    write_suite(folder, "m", "robust", tasks, results)
    (suite,) = read_suites(folder.parent)
    assert (suite.label, suite.settings["suite"], suite.mean_length) == ("m, suite robust", "robust", 7.0)
    assert {name: part.n for name, part in suite.by_dataset.items()} == dict.fromkeys(
        ("medqa", "medmcqa", "medxpertqa"), 12
    )
    assert suite.summary.accuracy == 1.0 and suite.compare(suite).p == 1.0

    card = section([Row(OWN, suite)])
    assert "The suite `robust`, graded by the protocol `boxed`" in card
    assert all(f"| {name} | 12 | 25.0 |" in card for name in ("medqa", "medmcqa", "medxpertqa"))
    page = build_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<h2>Suites</h2>" in page and "m, suite robust" in page and "<td>medxpertqa</td>" in page
