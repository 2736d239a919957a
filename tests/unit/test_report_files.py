"""Files of a run that are not as they were written: one line with file and line, or a warning for a torn last row."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from alphamed_nemo.cli.progress import MetricsFollower
from alphamed_nemo.config.files import load_config, read_yaml
from alphamed_nemo.report.run_data import read_evaluations, read_metrics, read_run
from alphamed_nemo.report.summary import write_summary

GOOD = json.dumps({"step": 1, "reward/mean": 0.5})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{GOOD}\n{{broken\n{GOOD}\n".encode(), r"metrics\.jsonl, line 2: not valid JSON"),
        (f"{GOOD}\n[1, 2]\n".encode(), r"metrics\.jsonl, line 2: found list, expected an object"),
        (f"{GOOD}\n".encode() + b'{"reward/mean": 1.0}\n', r"line 2: step: found None, expected a whole number"),
        (b'{"step": "one"}\n', r"line 1: step: found 'one', expected a whole number"),
        (b'{"step": 1, "reward/mean": "much"}\n', r"line 1: reward/mean: found 'much', expected a number"),
        (f"{GOOD}\n".encode() + b'{"step": 2, "x": "\xff"}\n', r"line 2: not utf-8 \(byte 0xff\)"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_metrics(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_last_row_that_is_cut_short_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{GOOD}\n{{"step": 2, "rew')
    with caplog.at_level(logging.WARNING):
        assert [row["step"] for row in read_metrics(path)] == [1]
    assert f"{path}, line 2: not complete, left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval/a.json", '{"accuracy": "high"}', r"a\.json: not a result of evaluate \(ValueError"),
        ("eval/a.json", '{"accuracy": 0.5, "by_dataset": {"x": 3}}', r"a\.json: not a result of evaluate \(TypeError"),
        ("eval/a.json", "{", r"a\.json: not valid JSON"),
        ("summary.json", "[]", r"summary\.json: found list, expected an object"),
        ("config.yaml", "grpo: {steps: [\n", r"config\.yaml, line 2: not YAML"),
        ("data/labelled.jsonl", '{"level": "hard"}\n', r"labelled\.jsonl, line 1: found level 'hard'"),
        ("data/labelled.jsonl", "7\n", r"labelled\.jsonl, line 1: found int, expected an object"),
    ],
)
def test_another_broken_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_of_other_things_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "notes.json").write_text("[1, 2]")
    assert read_evaluations(tmp_path / "eval") == []
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step_last.jsonl").write_text("{}\n")
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n")
    assert read_run(tmp_path).samples == {}


def test_a_summary_that_is_none_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n")
    (tmp_path / "summary.json").write_text("null")
    with pytest.raises(ValueError, match=r"summary\.json: found NoneType, expected an object"):
        write_summary(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run:\n  name: \xe4\n", r"config\.yaml, line 2: not UTF-8 \(byte 0xe4\)"),
        (b"run: [\n", r"config\.yaml, line 2: not YAML"),
        (b"run: a: b\n", r"config\.yaml, line 1: not YAML \(mapping values are not allowed here\)"),
    ],
)
def test_a_config_that_is_no_yaml_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    for read in (read_yaml, load_config):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_the_progress_names_a_file_that_something_else_writes_to(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{GOOD}\nnot a row\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: a line is no JSON"):
        MetricsFollower(path).new_rows()
