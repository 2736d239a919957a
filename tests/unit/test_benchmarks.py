"""What the benchmarks time is what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from alphamed_nemo.answers.protocols import extract_answer
from alphamed_nemo.config import Config
from alphamed_nemo.data.prompts import encode_prompt
from benchmarks import bench, responses
from benchmarks.ceiling import products
from benchmarks.figure import draw
from benchmarks.measure import Row, table, write
from benchmarks.peers import write_prompts
from benchmarks.workload import SHAPES, TOKENIZER, long_questions, model_folder


def test_mixed_responses_state_an_answer_in_the_share_that_is_said() -> None:
    found = [extract_answer(text, responses.OPTIONS, "lenient") for text in responses.mixed(2_000)]
    assert 0.01 < found.count(None) / len(found) < 0.06
    assert set(found) == {None, *"ABCD"}
    assert all(extract_answer(text, responses.OPTIONS, "boxed") for text in responses.boxed(50, 300))


def test_prompts_are_about_100_tokens_and_trl_gets_the_same(tmp_path: Path) -> None:
    settings = Config().data
    settings.prompt = "tiny"
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    ids = [encode_prompt(question, tokenizer, settings) for question in long_questions(64)[:16]]
    assert all(100 <= len(prompt) < 125 for prompt in ids)
    texts = json.loads(write_prompts(tmp_path / "prompts.json", 16).read_text())
    assert [tokenizer(text).input_ids for text in texts] == ids


def test_the_model_has_the_parameters_of_its_name_and_the_products_are_its_matrices(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(model_folder(tmp_path, "2M", "float32"))
    shape = SHAPES["2M"]
    head = shape.hidden // shape.heads
    layer = shape.hidden * (2 * shape.hidden + 2 * shape.kv_heads * head) + 3 * shape.hidden * shape.ffn
    matrices = sum(each.inner * each.columns * each.times for each in products(config, 10, 5))
    assert matrices == shape.layers * layer + shape.hidden * shape.vocab
    assert 1.5e6 < matrices + shape.hidden * shape.vocab < 2.5e6


def test_a_result_has_its_machine_versions_medians_and_a_figure(tmp_path: Path) -> None:
    rows = [
        Row("GRPO step, float32, TP 1 × PP 1", "s", [2.0, 1.0, 4.0]),
        Row("GRPO step, float32, TP 1 × PP 1: training", "s", [1.0, 0.5, 3.0]),
        Row("reward", "responses/s", [123456.0], "100,000"),
    ]
    path = write(rows, {"machine": {"cores": 2}}, tmp_path)
    record = json.loads(path.read_text())
    assert [row["median"] for row in record["rows"]] == [2.0, 1.0, 123456.0]
    assert record["machine"] == {"cores": 2} and "torch" in record["versions"]
    assert "| GRPO step, float32, TP 1 × PP 1 | 2.00 | s | 1.00 to 4.00 | 3 |" in table(rows)
    assert "| reward | 123,456 | responses/s |" in path.with_suffix(".md").read_text()
    assert write(rows, {}, tmp_path) != path
    draw(rows, tmp_path / "figure.svg")
    assert "training" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("kind", responses.hostile(1000))
def test_hostile_responses_have_their_length(kind: str) -> None:
    assert 980 <= len(responses.hostile(1000)[kind]) <= 1000


def test_a_row_that_fails_leaves_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(self: bench.Bench) -> list[Row]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(bench.Bench, "reward", lambda self: [Row("grading", "responses/s", [1.0, 2.0])])
    monkeypatch.setattr(bench.Bench, "sampling", failing)
    monkeypatch.setattr(sys, "argv", ["bench", "reward", "sampling", "--results", str(tmp_path)])
    with pytest.raises(RuntimeError, match="no memory"):
        bench.main()
    (path,) = tmp_path.glob("*.json")
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["grading"]
