"""Evaluation and labelling against real vLLM: killed by SIGKILL in the middle, they go on without redoing or losing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from alphamed_nemo.config import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.engine import evaluate, parts_path
from alphamed_nemo.evaluation.labelling import label_questions
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.rollout.connection import connect
from alphamed_nemo.rollout.pool import RolloutPool

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")
QUESTIONS = [Question(f"q{i}", "set", f"Which drug is {i}?", OPTIONS, "ABCD"[i % 4]) for i in range(40)]
KILL_AFTER = 11


def settings(url: str, api_key: str, model: str) -> Config:
    cfg = Config()
    cfg.model.path = cfg.evaluate.model = model
    cfg.model.max_length = 256
    cfg.data.prompt = "tiny"
    cfg.model.dtype = cfg.rollout.dtype = "float32"
    cfg.rollout.max_num_seqs = 8
    cfg.label.samples, cfg.label.max_new_tokens = 3, 8
    cfg.evaluate.samples, cfg.evaluate.temperature, cfg.evaluate.max_new_tokens = 2, 1.0, 8
    cfg.rollout.urls, cfg.rollout.api_key = [url], api_key
    return cfg


def run(
    what: str, cfg: Config, out: Path, questions: Sequence[Question] = QUESTIONS, on_progress=None, prefix: str = ""
):
    pool = RolloutPool(connect(cfg.rollout), cfg.rollout)
    tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
    if what == "label":
        return label_questions(questions, pool, tokenizer, cfg, out, on_progress=on_progress)
    return evaluate(questions, pool, tokenizer, cfg, "row", out, prefix, on_progress=on_progress)


def die(done: int, total: int) -> None:
    assert total == len(QUESTIONS)
    if done == KILL_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(what: str, cfg: Config, out: Path) -> None:
    """Runs this file as a program that kills itself after some questions."""
    arguments = [what, cfg.rollout.urls[0], cfg.rollout.api_key, cfg.model.path, str(out)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_evaluation_resume", *arguments], timeout=120
    )
    assert process.returncode == -signal.SIGKILL


def ids(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert "settings" in rows[0]
    return [row["id"] for row in rows[1:]]


def texts(rows: Iterable[dict]) -> dict[str, list[str]]:
    return {row["id"]: [response["text"] for response in row["responses"]] for row in rows}


@pytest.fixture
def cfg(rollout_server) -> Config:
    return settings(rollout_server.url, rollout_server.api_key, str(rollout_server.path))


def test_labelling_goes_on_after_sigkill(cfg, tmp_path):
    journal = tmp_path / "labelling.jsonl"
    run_until_killed("label", cfg, journal)
    before = journal.read_bytes()
    assert len(ids(journal)) == KILL_AFTER
    journal.write_bytes(before + b'{"id": "q39", "respon')  # a row that the kill cut short
    progress = []
    labelled = run("label", cfg, journal, on_progress=lambda done, total: progress.append(done))
    assert progress == list(range(KILL_AFTER + 1, len(QUESTIONS) + 1))
    assert journal.read_bytes().startswith(before)
    assert sorted(ids(journal)) == sorted(question.id for question in QUESTIONS)
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").split("\n") if line][1:]
    assert all(len(row["responses"]) == 3 and all(r["length"] > 0 for r in row["responses"]) for row in rows)
    assert [question.id for question in labelled] == [question.id for question in QUESTIONS]
    assert all(question.level == 4 - question.metadata["correct"] for question in labelled)
    unbroken = tmp_path / "unbroken.jsonl"
    assert run("label", cfg, unbroken) == labelled
    assert texts(rows) == texts(map(json.loads, unbroken.read_text(encoding="utf-8").splitlines()[1:]))


def test_a_complete_labelling_asks_nothing_again(cfg, tmp_path):
    journal = tmp_path / "labelling.jsonl"
    first = run("label", cfg, journal, QUESTIONS[:5])
    before = journal.read_bytes()
    second = run("label", cfg, journal, QUESTIONS[:5], on_progress=lambda *_: pytest.fail("asked again"))
    assert (journal.read_bytes(), second) == (before, first)
    cfg.label.samples = 4
    with pytest.raises(ValueError, match="samples=3, now it is 4"):
        run("label", cfg, journal, QUESTIONS[:5])


def test_evaluation_goes_on_after_sigkill(cfg, tmp_path):
    out = tmp_path / "eval" / "row.json"
    run_until_killed("evaluate", cfg, out)
    assert not out.exists()
    kept = {row["id"]: row for row in map(json.loads, parts_path(out).read_text().splitlines()[1:])}
    assert len(kept) == KILL_AFTER
    result = run("evaluate", cfg, out)
    assert not parts_path(out).exists()
    assert (result.summary.n, result.samples, len(result.rows)) == (40, 2, 40)
    assert all(result.rows[id] == row for id, row in kept.items())
    assert EvaluationResult.read(out) == result
    unbroken = run("evaluate", cfg, tmp_path / "unbroken.json")
    assert unbroken.grades == result.grades
    assert texts(unbroken.rows.values()) == texts(result.rows.values())
    written = out.read_bytes()
    again = run("evaluate", cfg, out, on_progress=lambda *_: pytest.fail("asked again"))
    assert (again, out.read_bytes()) == (result, written)


def test_a_forced_prefix_begins_every_response(cfg, tmp_path):
    prefix = "The findings suggest"
    result = run("evaluate", cfg, tmp_path / "forced.json", QUESTIONS[:6], prefix=prefix)
    texts = [response["text"] for row in result.rows.values() for response in row["responses"]]
    assert len(texts) == 12
    assert all(text.startswith(prefix) for text in texts)
    assert json.loads((tmp_path / "forced.json").read_text())["force_prefix"] == prefix


def test_a_prompt_without_room_for_its_response_is_refused_by_name(cfg, tmp_path):
    long = Question("long", "set", "word " * 300, OPTIONS, "A")
    with pytest.raises(ValueError, match="1 of 2 prompts leave no room for 8 new tokens.*question long"):
        run("evaluate", cfg, tmp_path / "x.json", [QUESTIONS[0], long])
    with pytest.raises(ValueError, match="an id occurs twice"):
        run("evaluate", cfg, tmp_path / "y.json", [QUESTIONS[0], QUESTIONS[0]])


if __name__ == "__main__":
    task, url, api_key, model, path = sys.argv[1:]
    run(task, settings(url, api_key, model), Path(path), on_progress=die)
