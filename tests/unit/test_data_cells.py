"""The fields of a row: every form with one meaning is read, every other is refused by file, row and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphamed_nemo.data.cells import Unusable, level_of, metadata_of, options_of, paragraphs_of, text
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.data.question import Question

NAN = float("nan")
IRON_ZINC = ("Iron", "Zinc")


@pytest.mark.parametrize(
    "value",
    [
        ["Iron", "Zinc"],
        [" Iron ", "Zinc\n", None, "", NAN],
        {"A": "Iron", "B": "Zinc"},
        {"b": "Zinc", "a": "Iron"},
        {"A": "Iron", "B": "Zinc", "C": None, "D": NAN},
        {"(A)": "Iron", "B.": "Zinc"},
        {"1": "Iron", "2": "Zinc"},
        {"0": "Iron", "1": "Zinc"},
        [{"text": "Iron"}, {"text": "Zinc"}],
        [{"text": "Iron"}, {"text": "Zinc"}, None],
        [{"letter": "B", "content": "Zinc"}, {"letter": "A", "content": "Iron"}],
        [{"key": "A", "value": "Iron"}, {"key": "B", "value": "Zinc"}],
        [{"id": 0, "text": "Iron"}, {"id": 1, "text": "Zinc"}],
        [{"A": "Iron"}, {"B": "Zinc"}],
        {"text": ["Iron", "Zinc"], "label": ["A", "B"]},
        {"label": ["B", "A"], "text": ["Zinc", "Iron"]},
        '["Iron", "Zinc"]',
        '{"A": "Iron", "B": "Zinc"}',
        '[{"text": "Iron"}, {"text": "Zinc"}]',
        "['Iron', 'Zinc']",
    ],
    ids=repr,
)
def test_options_are_read_in_every_form_with_one_meaning(value: object) -> None:
    assert options_of(value).texts == IRON_ZINC


def test_numbers_are_options_as_written() -> None:
    assert options_of([1, 2.5, "3"]).texts == ("1", "2.5", "3")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Iron/Zinc", "unreadable options: found the text 'Iron/Zinc', expected a list of texts"),
        ("['Iron' 'Zinc']", "unreadable options"),  # as numpy prints them; Python reads one text
        ("[Iron, Zinc]", "unreadable options"),
        (["Iron", ["Zinc"]], "unreadable options: found a list"),
        ([["A", "Iron"], ["B", "Zinc"]], "unreadable options: found a list"),
        ([True, False], "unreadable options: found true, expected text"),
        ({"A": ["Iron"], "B": "Zinc"}, "unreadable options"),
        ([{"text": "Iron", "correct": True}, {"text": "Zinc", "correct": False}], "an object with text, correct"),
        ([{"text": "Iron"}, "Zinc"], "unreadable options"),
        ({"A": "Iron", "C": "Zinc"}, "option letters: A, C"),
        ([{"letter": "A", "text": "Iron"}, {"letter": "A", "text": "Zinc"}], "option letters: A, A"),
        ({"text": ["Iron", "Zinc"], "label": ["A"]}, "1 labels for 2 texts"),
        ('{"A": "Iron", "A": "Zinc"}', "unreadable options"),
        (7, "unreadable options: found 7"),
        (None, "number of options: none given"),
        (NAN, "number of options: none given"),
        ("", "number of options: none given"),
        (["Iron", None], "number of options: 1, expected 2 to 26"),
    ],
    ids=repr,
)
def test_other_options_are_refused(value: object, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        options_of(value)


@pytest.mark.parametrize("value", [None, NAN, "", "  "])
def test_a_missing_text_is_empty(value: object) -> None:
    assert text(value) == ""


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}, b"a", "\ud800"])
def test_what_is_no_text_is_refused_by_its_key(value: object) -> None:
    with pytest.raises(Unusable, match="unreadable stem"):
        text(value, "stem")


@pytest.mark.parametrize(
    "value", ["One.\nTwo.", ["One.", "Two."], '["One.", "Two."]', {"contexts": ["One.", "Two."], "labels": ["A", "B"]}]
)
def test_a_context_is_a_text_or_its_paragraphs(value: object) -> None:
    assert paragraphs_of(value) == "One.\nTwo."


def test_a_text_in_brackets_is_a_context_like_any_other() -> None:
    assert paragraphs_of("[Methods] We asked 12 patients.") == "[Methods] We asked 12 patients."
    assert paragraphs_of("nan") == paragraphs_of(NAN) == ""
    with pytest.raises(Unusable, match="unreadable context: found an object"):
        paragraphs_of({"text": "One."})


@pytest.mark.parametrize(
    ("value", "level"), [(3, 3), ("3", 3), (3.0, 3), ("3.0", 3), ("L3", 3), (None, None), (NAN, None), ("nan", None)]
)
def test_levels_are_whole_numbers_from_one(value: object, level: int | None) -> None:
    assert level_of(value) == level


@pytest.mark.parametrize("value", ["hard", 0, -1, 2.5, True, False, float("inf"), [3]])
def test_other_levels_are_refused(value: object) -> None:
    with pytest.raises(Unusable, match="unreadable level: found .*, expected a whole number of 1"):
        level_of(value)


def test_metadata_is_an_object() -> None:
    assert metadata_of({"a": 1}) == metadata_of('{"a": 1}') == {"a": 1}
    assert metadata_of(None) == metadata_of(NAN) == metadata_of("") == metadata_of("null") == {}
    for value in ("from ward 3", "[1]", [1], 7, True):
        with pytest.raises(Unusable, match="unreadable metadata"):
            metadata_of(value)


ROW = {"id": "a", "stem": "Metal?", "options": ["Iron", "Zinc"], "answer": "B"}


def save(folder: Path, *rows: dict) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_question_file_by_others_is_read_as_it_is_meant(tmp_path: Path) -> None:
    changes = [
        {"options": {"A": "Iron", "B": "Zinc"}, "context": NAN},
        {"options": '["Iron", "Zinc"]', "level": "2", "metadata": '{"a": 1}'},
        {"options": [{"text": "Iron"}, {"text": "Zinc"}], "answer": "b", "level": NAN, "metadata": NAN},
        {"answer": "Zinc", "context": ["One.", "Two."]},
        {"answer": 2},  # of two options: it can only count from 1
    ]
    rows = [ROW | {"id": number} | change for number, change in enumerate(changes)]
    questions = read_questions(save(tmp_path, *rows))
    assert [(q.options, q.answer) for q in questions] == [(IRON_ZINC, "B")] * 5
    assert [q.context for q in questions] == ["", "", "", "One.\nTwo.", ""]
    assert [q.level for q in questions] == [None, 2, None, None, None]
    assert [q.id for q in questions] == list("01234") and questions[1].metadata == {"a": 1}
    write_questions(questions, tmp_path / "again.jsonl")
    assert read_questions(tmp_path / "again.jsonl") == questions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "yes/no"}, "unreadable options: found the text 'yes/no'"),
        ({"options": NAN}, "missing options"),
        ({"stem": NAN}, "missing stem"),
        ({"answer": NAN}, "missing answer"),
        ({"stem": ["Metal?"]}, "unreadable stem"),
        ({"context": {"a": "b"}}, "unreadable context"),
        ({"answer": "1"}, "ambiguous answer: found '1', which may mean A or B"),
        ({"answer": "Lead"}, "answer not among the options: found 'Lead', expected a letter from A to B"),
        ({"answer": True}, "unreadable answer"),
        ({"level": "hard"}, "unreadable level"),
        ({"metadata": "text"}, "unreadable metadata"),
        ({"options": ["Zinc", "Zinc"]}, "duplicate options: 'Zinc', the correct one, occurs twice"),
    ],
    ids=repr,
)
def test_a_question_file_by_others_is_refused_by_file_row_and_key(tmp_path: Path, change: dict, message: str) -> None:
    path = save(tmp_path, ROW, ROW | {"id": "b"} | change)
    with pytest.raises(ValueError, match=f"row 2: .*{message}") as error:
        read_questions(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_question_files_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(ROW | {"stem": "Métal?"}, ensure_ascii=False).encode(encoding))
    assert read_questions(path)[0].stem == "Métal?"


def test_other_bytes_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n" + '{"stem": "Métal?"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 2: not utf-8 \(byte 0xe9\); save the file as UTF-8"):
        read_questions(path)
    path.write_bytes(json.dumps(ROW).encode("utf-16-le"))
    with pytest.raises(ValueError, match="without a byte order mark"):
        read_questions(path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.parquet"
    path.write_text("no parquet")
    with pytest.raises(ValueError, match=r"questions\.parquet: not a parquet file"):
        read_questions(path)


@pytest.mark.parametrize("options", ["yes/no", {"A": "Iron", "B": "Zinc"}])
def test_a_question_takes_no_options_that_are_no_list(options: object) -> None:
    with pytest.raises(ValueError, match="expected a list of texts"):
        Question("a", "d", "Metal?", options, "A")
    with pytest.raises(ValueError, match="context is nan, expected text"):
        Question("a", "d", "Metal?", IRON_ZINC, "A", context=NAN)
