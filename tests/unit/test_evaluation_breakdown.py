"""What accuracy depends on, and many results side by side, against sums done by hand or by enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest

from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.schema import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.breakdown import agreements, breakdown, by_length, by_trait, calibration_error, pass_at
from alphamed_nemo.evaluation.comparison import compare_results, comparison_table
from alphamed_nemo.evaluation.grading import grade_set
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.stats import wilson
from alphamed_nemo.evaluation.tables import write_comparison

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


def question(number: int, words: int = 5, dataset: str = "medqa", **metadata) -> Question:
    return Question(f"q{number}", dataset, " ".join(["word"] * words), OPTIONS, "C", metadata=metadata)


def result(questions, answers, label="ours", length: int | None = 10) -> EvaluationResult:
    """Answers by question: a letter for each sample, - for none."""
    texts = {
        asked.id: [rf"\boxed{{{letter}}}" for letter in given] for asked, given in zip(questions, answers, strict=True)
    }
    kept = {} if length is None else {"length": length}
    rows = {id: {"id": id, "responses": [{"text": text, **kept} for text in given]} for id, given in texts.items()}
    settings = {"samples": max(map(len, answers)), "protocol": "boxed"}
    return EvaluationResult(label, settings, grade_set(questions, texts, "boxed"), rows)


def test_accuracy_by_length_and_by_what_the_set_says():
    questions = [
        question(i, words, body_system=system)
        for i, (words, system) in enumerate(
            [(5, "Nervous"), (30, "Nervous"), (60, "Skeletal"), (300, "Skeletal"), (5, "Skeletal")]
        )
    ]
    done = result(questions, ["C", "A", "C", "A", "A"])
    assert {name: (part.n, part.accuracy) for name, part in by_length(done).items()} == {
        "0 to 24": (2, 0.5),
        "25 to 49": (1, 0.0),
        "50 to 99": (1, 1.0),
        "200 and more": (1, 0.0),
    }
    assert {name: part.n for name, part in by_trait(done)["body system"].items()} == {"Nervous": 2, "Skeletal": 3}
    page = breakdown(done)
    assert "| body system | n | accuracy |" in page and "| Skeletal | 3 | 33.3 [" in page


def test_a_written_result_keeps_what_it_is_told_apart_by(tmp_path):
    done = result([question(1, subject="anatomy"), question(2, subject="surgery")], ["C", "A"])
    done.settings |= {"model": "", "force_prefix": ""}
    done.write(tmp_path / "x.json")
    again = EvaluationResult.read(tmp_path / "x.json")
    assert by_trait(again) == by_trait(done) and by_length(again) == by_length(done)


def test_results_of_older_files_are_not_told_apart():
    done = result([question(1), question(2)], ["C", "A"])
    older = EvaluationResult(
        "x", done.settings, [type(g)(g.id, g.dataset, g.level, g.key, g.answers) for g in done.grades]
    )
    assert by_length(older) == {} and breakdown(older) == ""


def test_calibration_of_the_majority():
    answers = ["CCCC", "CCCA", "AAAC", "CA--", "----"]
    done = result([question(i) for i in range(5)], answers)
    assert [(part.votes, part.n, part.right) for part in agreements(done)] == [
        (0, 1, 0),
        (1, 1, 1),
        (3, 2, 1),
        (4, 1, 1),
    ]
    by_hand = (abs(0 - 0) + abs(1 - 1 / 4) + 2 * abs(1 / 2 - 3 / 4) + abs(1 - 1)) / 5
    assert calibration_error(done) == pytest.approx(by_hand)


def test_pass_at_k_is_the_mean_over_all_draws_of_k_samples():
    answers = ["CCAA", "AAAA", "CCCC", "CAAA"]
    done = result([question(i) for i in range(4)], answers)
    for k in (1, 2, 3, 4):
        draws = [[any(letter == "C" for letter in draw) for draw in combinations(given, k)] for given in answers]
        value, interval = pass_at(done, k)
        assert value == pytest.approx(sum(sum(draw) / len(draw) for draw in draws) / 4)
        assert interval == wilson(value * 4, 4)
    assert pass_at(done, 1)[0] == pytest.approx(done.accuracy)
    assert "| 4 | 75.0 [" in breakdown(done) and "| 3 |" not in breakdown(done).split("pass@k")[1]


def test_many_results_in_one_table_with_corrected_tests():
    questions = [question(i, dataset="medqa" if i < 20 else "medmcqa") for i in range(40)]
    base = result(questions, "C" * 10 + "A" * 10 + "C" * 10 + "A" * 10, "base", 10)
    better = result(questions, "C" * 20 + "C" * 12 + "A" * 8, "better", 30)
    quiet = result(questions, "-" * 40, "quiet", 30)
    rows = compare_results([base, better, quiet])
    assert [(row.dataset, row.label) for row in rows[:3]] == [
        ("medqa", "base"),
        ("medqa", "better"),
        ("medqa", "quiet"),
    ]
    by_name = {(row.dataset, row.label): row for row in rows}
    first = by_name["medqa", "better"]
    assert first.difference.value == 0.5 and first.p == pytest.approx(2 / 2**10)
    assert by_name["medmcqa", "better"].p == 0.5
    # four tests: p of 2/1024 three times, and 0.5
    assert first.p_holm == pytest.approx(4 * 2 / 2**10) and by_name["medmcqa", "better"].p_holm == 0.5
    assert (by_name["medqa", "base"].tokens, first.tokens, by_name["medqa", "quiet"].tokens) == (10, 30, None)
    lines = comparison_table([base, better, quiet]).splitlines()
    assert "| medqa | better | 20 | 100.0 [83.9, 100.0] | +50.0 [+" in lines[3]
    assert "| medqa | quiet | 20 | 0.0 [0.0, 16.1] | −50.0 [−" in lines[4]


def test_tokens_of_unanswered_responses_are_part_of_what_an_answer_costs():
    done = result([question(1), question(2)], ["C", "-"], length=30)
    assert compare_results([done])[0].tokens == 60
    unknown = result([question(1)], ["C"], length=None)
    assert compare_results([unknown])[0].tokens is None


def test_results_of_other_questions_are_not_compared(tmp_path):
    base, other = result([question(1)], ["C"], "base"), result([question(2)], ["C"], "other")
    with pytest.raises(ValueError, match="base and other cannot be compared on medqa"):
        compare_results([base, other])
    with pytest.raises(ValueError, match="at least two"):
        write_comparison(tmp_path, [base])
    write_comparison(tmp_path, [base, base])
    assert "Holm" in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "paper", "responses": "x.jsonl"}, "evaluate.suite and evaluate.responses are both set"),
        ({"sets": ["medqa"]}, "evaluate.sets: names sets of a suite"),
        ({"suite": "robust", "against": ["x.json"]}, "evaluate.against"),
        ({"suite": "robsut"}, "expected one of .*paper, medmarks, robust; the nearest is robust"),
    ],
)
def test_evaluate_does_one_thing(changes, message):
    cfg = Config()
    for name, value in changes.items():
        setattr(cfg.evaluate, name, value)
    with pytest.raises(ValueError, match=message):
        check_values(cfg)
