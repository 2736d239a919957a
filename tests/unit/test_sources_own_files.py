"""Files as people save them: delimiters, encodings, long cells; what is wrong is one line with file, line and key."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from alphamed_nemo.data.sources import SourceConfig, load_source
from alphamed_nemo.data.sources.base import Loaded

HEADER, CELLS = ("question", "options", "answer"), ("Which metal, or none?", '["Iron", "Zinc"]', "B")


def load(path: Path, kind: str = "questions", evaluation: bool = False, share: float = 0.02) -> Loaded:
    return load_source(
        kind if kind != "questions" else "ward", SourceConfig(set=kind, path=str(path)), evaluation, share
    )


def write(path: Path, content: str | bytes | list) -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, kind: str = "questions") -> str:
    with pytest.raises(ValueError) as error:
        load(path, kind)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_whatever_divides_its_cells(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    path = tmp_path / "ward.csv"
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=end)
        writer.writerows([HEADER, CELLS, [], ("Größe?\nIn mm; or | cm", "['1, 2', '3']", "a")])
    first, second = load(path).questions
    assert (first.stem, first.options, first.answer) == (CELLS[0], ("Iron", "Zinc"), "B")
    assert (second.stem, second.options, second.answer) == ("Größe?\nIn mm; or | cm", ("1, 2", "3"), "A")


def test_excels_first_line_and_a_nameless_index_column_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "ward.CSV", 'sep=;\r\n; question ;options;answer;;\r\n0;Metal?;["Iron","Zinc"];B;;\r\n')
    (question,) = load(path).questions
    assert (question.stem, question.options, question.answer) == ("Metal?", ("Iron", "Zinc"), "B")


def test_a_cell_may_be_longer_than_an_article(tmp_path: Path) -> None:
    limit, context = csv.field_size_limit(), "word " * 40_000
    path = write(tmp_path / "ward.csv", f'question;options;answer;context\nMetal?;["Iron","Zinc"];B;{context}\n')
    assert len(load(path).questions[0].context) == len(context) - 1
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('question,options,answer\nMetal?,["Iron", "Zinc"],B\n', "line 2: "),
        ("question,options,answer\nMetal, which?,['Iron'; 'Zinc'],B\n", "line 2: 4 cells for 3 columns"),
        ('question,options,answer\n"Metal?,"["",B\n', "line 2: not CSV with ','"),
        ('question,options,answer\nMetal?,x,y\n"Metal?,B\n', "line 3: not CSV"),
        ("question,options,answer,answer\nMetal?,x,A,B\n", "line 1: the column 'answer' is there twice"),
        ("question;options;answer\n", "holds no rows"),
        ("", "holds no rows"),
        (b"question;options;answer\nM\xe9tal?;x;B\n", "line 2: not utf-8"),
        ("question;options;answer\nMetal?;Iron/Zinc;B\n", "line 2: unreadable options"),
        ('question;options;answer;level\nMetal?;["Iron","Zinc"];B;hard\n', "line 2: unreadable level .*'hard'"),
        ('question;options;answer;metadata\nMetal?;["Iron","Zinc"];B;ward 3\n', "line 2: unreadable metadata"),
        (
            'question;options;answer\n"Metal,\nwhich?";["a","b"];B\nMetal?;["Iron","Zinc"];F\n',
            "line 4: answer not among",
        ),
    ],
)
def test_a_table_is_refused_by_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert re.search(message, refused(write(tmp_path / "ward.csv", content)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "M?", "options": ["x", "y"], "answer": "A"}\n\n{"question":\n', "line 3: not JSON"),
        ("a.jsonl", '{"question": "M?", "options": {"A": "x", "A": "y"}}\n', "line 1: not JSON .*'A' occurs twice"),
        ("a.jsonl", '{"question": "M?", "options": ["x", "y"], "answer": "A"}\n[1]\n', "line 2: found list"),
        ("a.jsonl", '{"question": "M?", "options": ["x", "y"]}\n{"q": 1}\n', "line 1: no answer"),
        ("a.json", '[{"question": "M?", "options": "x/y", "answer": "A"}]', "entry 1: unreadable options"),
        ("a.json", '{"q1": {"question": "M?", "options": "x/y", "answer": "A"}}', "key 'q1': unreadable options"),
        ("a.json", '[{"question": "M?"', "neither JSON lines nor one JSON value"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.parquet", "no parquet", "not a parquet file"),
    ],
)
def test_json_is_refused_by_file_and_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    assert re.search(message, refused(write(tmp_path / name, content)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_with_a_byte_order_mark_is_read(tmp_path: Path, name: str, encoding: str) -> None:
    row = {"question": "Métal?", "options": ["Iron", "Zinc"], "answer": "B"}
    path = write(tmp_path / name, json.dumps(row, ensure_ascii=False).encode(encoding))
    assert [question.stem for question in load(path).questions] == ["Métal?"]


def test_a_list_saved_as_json_lines_is_read(tmp_path: Path) -> None:
    rows = [{"question": f"M{i}?", "options": ["Iron", "Zinc"], "answer": "B"} for i in range(2)]
    assert len(load(write(tmp_path / "a.jsonl", json.dumps(rows, indent=1))).questions) == 2


def test_a_few_bad_rows_are_set_aside_with_their_place(tmp_path: Path) -> None:
    rows = [{"question": f"M{i}?", "options": ["Iron", "Zinc"], "answer": "B"} for i in range(60)]
    path = write(tmp_path / "a.jsonl", [*rows, {"options": ["x", "y"], "answer": "A"}])
    loaded = load(path)
    assert len(loaded.questions) == 60
    assert [(item.place, item.reason, item.detail) for item in loaded.set_aside] == [
        (f"{path}, line 61", "missing column", "question")
    ]


@pytest.mark.parametrize("options", [["Iron", "Zinc"], '["Iron", "Zinc"]', [{"A": "Iron"}, {"B": "Zinc"}]])
def test_medqa_options_are_read_in_other_forms(tmp_path: Path, options: object) -> None:
    row = {"question": "Metal?", "options": options, "answer_idx": "B", "answer": "Zinc"}
    (question,) = load(write(tmp_path / "a.jsonl", [row]), "medqa").questions
    assert (question.options, question.answer) == (("Iron", "Zinc"), "B")
    assert "line 1: unreadable options" in refused(
        write(tmp_path / "b.jsonl", [row | {"options": "Iron/Zinc"}]), "medqa"
    )


@pytest.mark.parametrize("contexts", ["One.\nTwo.", ["One.", "Two."], '["One.", "Two."]'])
def test_pubmedqa_contexts_are_a_text_or_a_list(tmp_path: Path, contexts: object) -> None:
    authors = {"11": {"QUESTION": "Works?", "CONTEXTS": contexts, "final_decision": "no"}}
    hub = [{"pubid": 11, "question": "Works?", "context": contexts, "final_decision": "no"}]
    for path in (write(tmp_path / "a.json", json.dumps(authors)), write(tmp_path / "b.jsonl", hub)):
        (question,) = load(path, "pubmedqa").questions
        assert (question.context, question.answer) == ("One.\nTwo.", "B")


@pytest.mark.parametrize(("contexts", "reason"), [(None, "no context"), ([], "no context"), ({"a": 1}, "unreadable")])
def test_pubmedqa_without_contexts_is_refused(tmp_path: Path, contexts: object, reason: str) -> None:
    authors = {"11": {"QUESTION": "Works?", "CONTEXTS": contexts, "final_decision": "no"}}
    path = write(tmp_path / "a.json", json.dumps(authors))
    assert f"key '11': {reason}" in refused(path, "pubmedqa")
    assert len(load_source("pubmedqa", SourceConfig(path=str(path), contexts=False)).questions) == 1


def test_mmlu_pro_index_may_be_a_number_with_a_gap(tmp_path: Path) -> None:
    row = {
        "question": "Metal?",
        "options": '["Iron", "Zinc"]',
        "answer": "B",
        "answer_index": 1.0,
        "category": "health",
    }
    assert load(write(tmp_path / "a.jsonl", [row]), "mmlu_pro").questions[0].answer_text == "Zinc"


CROSSES = ["BB × bb", "Bb × bb", "bb × bb"]


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("options", [CROSSES, ["AA", "Aa", "aa"], ["AB", "Ab", "aB", "ab"], ["XX", "Xx"]])
def test_options_told_apart_by_case_are_kept(tmp_path: Path, options: list[str], evaluation: bool) -> None:
    row = {"question": "Which cross?", "options": options, "answer": "A"}
    (question,) = load(write(tmp_path / "a.jsonl", [row]), evaluation=evaluation).questions
    assert question.options == tuple(options)


@pytest.mark.parametrize("options", [["Gold", "Iron", "Iron"], ["Gold", "Iron", " Iron "], ["Gold", "é", "e\u0301"]])
def test_two_wrong_options_of_one_text_are_kept_for_evaluation_only(tmp_path: Path, options: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "Metal?", "options": options, "answer": "A"}])
    assert len(load(path, evaluation=True).questions) == 1
    assert load(path, share=1.0, evaluation=True).questions[0].answer_text == "Gold"
    assert "duplicate options" in refused(path)


def test_a_text_that_only_its_style_tells_apart_is_no_second_option_to_train_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "Metal?", "options": ["Iron", "iron", "Zinc"], "answer": "C"}])
    assert len(load(path, evaluation=True).questions) == 1
    assert "duplicate options" in refused(path)


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_correct_option_that_occurs_twice_is_an_error(tmp_path: Path, evaluation: bool) -> None:
    row = {"question": "Metal?", "options": ["Iron", "Gold", "Iron"], "answer": "A"}
    with pytest.raises(ValueError, match="line 1: duplicate options .the correct one occurs twice"):
        load(write(tmp_path / "a.jsonl", [row]), evaluation=evaluation)
