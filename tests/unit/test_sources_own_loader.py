"""A data set read by a user's own loader, from one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphamed_nemo.config.sources import SourceConfig, SourcesConfig
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prepare import prepare
from alphamed_nemo.data.sources import load_source
from alphamed_nemo.user_code import ROOT

SHEETS = "examples/exam_sheets.py:ExamSheets"
FILE = str(ROOT / "examples" / "exam_sheets.csv")


def test_the_example_reads_its_rows():
    loaded = load_source("sheets", SourceConfig(set=SHEETS, path=FILE))
    assert [(q.id, q.dataset, q.answer_text) for q in loaded.questions] == [
        ("sheets-1", "sheets", "Low ferritin"),
        ("sheets-2", "sheets", "Vitamin B12"),
        ("sheets-3", "sheets", "Beta blockers"),
        ("sheets-4", "sheets", "Mitral"),
    ]
    assert [len(q.options) for q in loaded.questions] == [4, 3, 4, 4]
    assert loaded.questions[0].metadata == {"chapter": "Anaemia"}


def test_chapters_not_asked_for_are_outside():
    loaded = load_source("sheets", SourceConfig(set=SHEETS, path=FILE, categories=["Heart"]))
    assert (len(loaded.questions), loaded.outside) == (2, 2)


def test_a_wrong_key_is_set_aside_with_its_reason(tmp_path: Path):
    rows = Path(FILE).read_text().replace("High folate,1", "High folate,5")
    (tmp_path / "sheets.csv").write_text(rows)
    source = SourceConfig(set=SHEETS, path=str(tmp_path / "sheets.csv"))
    loaded = load_source("sheets", source, max_unusable_share=0.5)
    assert [(item.row, item.reason, item.detail) for item in loaded.set_aside] == [
        (0, "key is no choice", "found '5', expected 1 to 4")
    ]


def test_the_whole_stage_takes_it(tmp_path: Path):
    report = prepare(SourcesConfig(train={"sheets": SourceConfig(set=SHEETS, path=FILE)}), tmp_path)
    assert report.of("sheets", "train").questions == 4
    assert {q.dataset for q in read_questions(tmp_path / "train.parquet")} == {"sheets"}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("examples/nosuch.py:Own", r"sources\.train\.own\.set: no file"),
        ("examples/exam_sheets.py:Nosuch", r"sources\.train\.own\.set: .* it defines ExamSheets"),
        ("examples/format_reward.py:format_reward", "is no subclass of alphamed_nemo.data.sources.base.Loader"),
    ],
)
def test_a_wrong_loader_is_named(tmp_path: Path, place: str, message: str):
    cfg = SourcesConfig(train={"own": SourceConfig(set=place, path=FILE)})
    with pytest.raises(ValueError, match=message):
        prepare(cfg, tmp_path)
