"""Full denominators, saved responses, result files and tables."""

from __future__ import annotations

import json

import pytest

from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.breakdown import breakdown
from alphamed_nemo.evaluation.engine import score_saved
from alphamed_nemo.evaluation.grading import grade_set
from alphamed_nemo.evaluation.published import BENCHMARKS, ROWS, published_table
from alphamed_nemo.evaluation.result import EvaluationResult, markdown_table
from alphamed_nemo.evaluation.tables import comparison_line, write_tables

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


def question(number: int, answer: str = "C", dataset: str = "medqa") -> Question:
    return Question(f"q{number}", dataset, f"Which drug is number {number}?", OPTIONS, answer, level=1 + number % 2)


@pytest.fixture
def questions() -> list[Question]:
    return [question(number) for number in range(10)]


@pytest.fixture
def save(tmp_path):
    def write(rows) -> object:
        path = tmp_path / "responses.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return path

    return write


def test_unanswered_and_missing_questions_stay_in_the_denominator(questions, save, tmp_path):
    rows = [{"id": f"q{i}", "response": r"\boxed{C}"} for i in range(4)]
    rows += [{"id": "q4", "response": r"\boxed{A}"}, {"id": "q5", "response": "no idea"}]
    result = score_saved(questions, save(rows), "boxed", "saved", tmp_path / "out.json")
    summary = result.summary
    assert (summary.n, summary.accuracy, summary.unanswered_count) == (10, 0.4, 5)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["n"], record["accuracy"], record["unanswered"]) == (10, 0.4, 0.5)
    assert record["interval"] == pytest.approx([0.168180, 0.687326], abs=1e-6)
    assert [len(q["responses"]) for q in record["questions"]] == [1] * 6 + [0] * 4
    assert record["questions"][4]["responses"] == [{"text": r"\boxed{A}", "answer": "A", "correct": False}]


def test_several_samples_give_average_and_majority(questions, save, tmp_path):
    letters = {"q0": "CCA", "q1": "AAC", "q2": "AC", "q3": ""}
    rows = [{"question_id": id, "responses": [rf"\boxed{{{x}}}" for x in text]} for id, text in letters.items()]
    result = score_saved(questions[:4], save(rows), "boxed", "saved", tmp_path / "out.json")
    assert result.samples == 3
    assert result.summary.accuracy == pytest.approx((2 / 3 + 1 / 3 + 1 / 2 + 0) / 4)
    assert result.summary.majority == pytest.approx(1 / 4)
    assert (result.summary.unanswered_count, result.summary.responses) == (1, 9)  # q3 has none, which counts as one


def test_unequal_numbers_of_samples_weigh_questions_equally(questions, save, tmp_path):
    letters = ["C", "CA", "ACC", "AA??", "?C?AC"]  # C is right, ? states none
    rows = [{"id": f"q{i}", "responses": [rf"\boxed{{{x}}}" for x in text]} for i, text in enumerate(letters)]
    summary = score_saved(questions[:5], save(rows), "boxed", "saved", tmp_path / "out.json").summary
    assert summary.accuracy == pytest.approx((1 + 1 / 2 + 2 / 3 + 0 + 2 / 5) / 5)
    assert summary.majority == pytest.approx((1 + 1 + 1 + 0 + 1) / 5)  # of equals the first one given; ? has no vote
    assert (summary.samples, summary.responses, summary.unanswered_count) == (5, 15, 4)
    assert summary.unanswered == pytest.approx(4 / 15)
    result = EvaluationResult.read(tmp_path / "out.json")
    assert "4 of 15" in markdown_table([result]) and "avg@5 at most" in markdown_table([result])
    assert breakdown(result).endswith("| k | pass@k |\n| --- | ---: |\n| 1 | 51.3 [17.8, 83.7] |\n")


def test_scoring_saved_responses_reports_its_progress(save, tmp_path):
    asked, seen = [question(number) for number in range(1200)], []
    rows = [{"id": "q7", "response": r"\boxed{C}"}]
    score_saved(asked, save(rows), "boxed", "x", tmp_path / "out.json", lambda done, of: seen.append((done, of)))
    assert seen == [(500, 1200), (1000, 1200), (1200, 1200)]


def test_a_written_result_reads_back_equal(questions, save, tmp_path):
    rows = [{"id": f"q{i}", "response": f"The answer is {x}."} for i, x in enumerate("CCABDCCZ")]
    result = score_saved(questions, save(rows), "lenient", "a|b", tmp_path / "out.json")
    again = EvaluationResult.read(tmp_path / "out.json")
    assert again == result
    assert set(result.by_level) == {1, 2}
    assert sum(part.n for part in result.by_level.values()) == 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 1"),
        ({"response": "x"}, "line 1.*id and response"),
        ({"id": "unknown", "response": "x"}, "unknown"),
        ({"id": "q0", "response": 5}, "no text"),
        ([1], "line 1"),
    ],
)
def test_bad_saved_rows_are_named(row, message, questions, save, tmp_path):
    with pytest.raises(ValueError, match=message):
        score_saved(questions, save([row]), "boxed", "x", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_responses_that_are_not_utf8_are_refused_in_one_line_that_names_it(questions, tmp_path):
    path = tmp_path / "responses.jsonl"
    good, bad = '{"id": "q0", "response": "für C"}', '{"id": "q1", "response": "für C"}'
    path.write_bytes(good.encode() + b"\r\n" + bad.encode("latin-1"))
    with pytest.raises(ValueError, match=r"responses\.jsonl, line 2: not UTF-8") as refused:
        score_saved(questions, path, "boxed", "x", tmp_path / "out.json")
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_before_saved_responses_is_no_part_of_them(questions, tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "q0", "response": "naïve: \\\\boxed{C}"}\n', encoding="utf-8-sig")
    result = score_saved(questions, path, "boxed", "x", tmp_path / "out.json")
    assert result.grades[0].answers == ("C",)
    assert result.rows["q0"]["responses"][0]["text"] == "naïve: \\boxed{C}"


def test_no_questions_and_unknown_protocols_are_refused(questions, save, tmp_path):
    with pytest.raises(ValueError, match="no questions"):
        score_saved([], save([]), "boxed", "x", tmp_path / "out.json")
    with pytest.raises(ValueError, match="expected one of boxed, lenient, first_or_last"):
        score_saved(questions, save([]), "strict", "x", tmp_path / "out.json")


def test_first_or_last_takes_the_better_match_of_each_data_set():
    texts = {
        "q0": ["B is wrong, so it is C"],  # last
        "q1": ["C is right, B is wrong"],  # first
        "q2": ["B is wrong, so it is C"],  # last
        "q3": ["C is right, B is wrong"],  # first
        "q4": [""],
    }
    sets = ["medqa", "medqa", "medqa", "medmcqa", "medmcqa"]
    questions = [question(i, dataset=name) for i, name in enumerate(sets)]
    grades = grade_set(questions, texts, "first_or_last")
    assert [grade.correct for grade in grades] == [(True,), (False,), (True,), (True,), (False,)]


def test_results_on_the_same_questions_compare_by_mcnemar(questions, save, tmp_path):
    def graded(letters):
        rows = [{"id": f"q{i}", "response": rf"\boxed{{{x}}}"} for i, x in enumerate(letters)]
        return score_saved(questions, save(rows), "boxed", "x", tmp_path / "out.json")

    first, second = graded("CCCCCCCCCA"), graded("CAAAAAAACC")
    test = first.compare(second)
    assert (test.only_first, test.only_second) == (7, 1)
    assert test.p == pytest.approx(2 * (1 + 8) / 2**8)
    other = score_saved([question(11)], save([]), "boxed", "other", tmp_path / "out.json")
    with pytest.raises(ValueError, match="cannot be compared"):
        first.compare(other)


def test_table_shows_each_data_set_and_the_unanswered(questions, save, tmp_path):
    yes_or_no = Question("q20", "medmcqa", "Is it?", ("yes", "no"), "A")
    mixed = questions[:4] + [question(4, dataset="medmcqa"), yes_or_no]
    rows = [{"id": f"q{i}", "response": r"\boxed{C}"} for i in range(4)]
    result = score_saved(mixed, save(rows), "boxed", "ours", tmp_path / "out.json")
    lines = markdown_table([result]).splitlines()
    assert lines[0] == "| model | protocol | medmcqa | medqa | unanswered | mean length |"
    assert lines[2] == "| guessing | – | 37.5 | 25.0 | – | – |"
    assert "100.0 [51.0, 100.0] (n = 4)" in lines[3]
    assert "| 2 of 6 |" in lines[3]


def test_what_guessing_would_get_is_recorded_and_unknown_in_older_files(questions, save, tmp_path):
    mixed = [questions[0], Question("q20", "medqa", "Is it?", ("yes", "no"), "A")]
    path = tmp_path / "out.json"
    score_saved(mixed, save([{"id": "q0", "response": r"\boxed{C}"}]), "boxed", "ours", path)
    record = json.loads(path.read_text())
    assert record["guessing"] == EvaluationResult.read(path).summary.guessing == 0.375
    for asked in record["questions"]:
        del asked["options"]
    path.write_text(json.dumps(record))
    older = EvaluationResult.read(path)
    assert older.summary.guessing is None and "guessing" not in markdown_table([older])


def test_published_numbers_have_sources_and_empty_cells_stay_empty():
    for row in ROWS:
        assert len(row.numbers) == len(BENCHMARKS)
        for number in filter(None, row.numbers):
            assert isinstance(number.as_printed, str) and 0 < float(number.as_printed) < 100
            assert "arXiv" in number.origin.name and number.origin.protocol and number.n
    large = next(row for row in ROWS if row.model == "AlphaMed-70B")
    assert large.number("MedXpert").as_printed == "32.56"
    assert large.number("MedQA") is None
    line = next(line for line in published_table().splitlines() if line.startswith("| AlphaMed-70B"))
    assert line.startswith("| AlphaMed-70B | – | – | – | 79.56 | – | 32.56 |")


def test_second_hand_numbers_are_marked_and_digits_stay_as_printed():
    line = next(line for line in published_table().splitlines() if line.startswith("| AlphaMed-8B (19K)"))
    assert line.startswith("| AlphaMed-8B (19K) | 76.19† | 64.47† | – | 66.67 | – | 22.14 |") and "review" in line
    assert "| Llama3.1-8B-Instruct + MedQA-Sub (1,200) | 74.2 | 63.1 | 79.0 |" in published_table()
    assert "- † second-hand: not read in the source itself." in published_table()


def test_our_rows_stand_below_the_published_ones(questions, save, tmp_path):
    rows = [{"id": f"q{i}", "response": r"\boxed{C}"} for i in range(5)]
    result = score_saved(questions, save(rows), "boxed", "ours", tmp_path / "out.json")
    line = "| ours | 50.0 (n = 10) | – | – | – | – | – | this run, protocol boxed |"
    assert line in published_table([result]).splitlines()


def test_tables_hold_every_result_the_paired_test_and_published_numbers(questions, save, tmp_path):
    folder = tmp_path / "eval"
    for label, letters in (("base", "CAAAAAAACC"), ("trained", "CCCCCCCCCA")):
        rows = [{"id": f"q{i}", "response": rf"\boxed{{{x}}}"} for i, x in enumerate(letters)]
        result = score_saved(questions, save(rows), "boxed", label, folder / f"{label}.json")
    base = EvaluationResult.read(folder / "base.json")
    line = "trained 90.0% against base 30.0%: 7 questions only trained has right, 1 only base (p = 0.07)"
    assert comparison_line(result, base) == line
    table = write_tables(folder, result, [base])
    text = (folder / "tables.md").read_text()
    assert table in text and line in text
    assert "| trained | boxed | 90.0 [59.6, 98.2] (n = 10) |" in text
    assert "| AlphaMed-7B | 71.6 | 61.5 | 73.3 | 66.8 | 53.9 | 19.2 |" in text
    assert "| trained | 90.0 (n = 10) | – | – | – | – | – | this run, protocol boxed |" in text
    assert "| medqa | trained | 10 | 90.0 [59.6, 98.2] | +60.0 [" in text and "| 0.07 | 0.07 | – |" in text
    assert "| L2 | 5 |" in text
