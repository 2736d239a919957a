"""A suite, killed by SIGKILL in the middle of its third set: it goes on with the next question of that set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from alphamed_nemo.config import Config, RolloutConfig
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.journal import Journal
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.launch.local import Launcher
from tests.documented import ROOT
from tests.stand_in_vllm import stand_ins

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")
QUESTIONS = [Question(f"q{i}", "medqa", f"Which drug is {i}?", OPTIONS, "ABCD"[i % 4]) for i in range(6)]
TEXTS = {place: rf"\boxed{{{letter}}}" for place, letter in enumerate("ABCDABCD")}
KILL_AFTER = 2 * len(QUESTIONS) + 3  # questions of all tasks together


def run_suite(url: str, root: Path) -> Path:
    """All of the robust suite on one prepared set, as recipes/evaluate.py does it; returns the page."""
    sys.path.append(str(ROOT / "recipes"))
    from evaluate import evaluate_suite

    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.sources.out = str(root), "suite", str(root / "prepared")
    cfg.model.path = cfg.evaluate.model = str(ROOT / "alphamed_nemo" / "assets" / "tiny_base")
    cfg.model.max_length, cfg.data.prompt, cfg.data.chat_template = 256, "tiny", False
    cfg.rollout = RolloutConfig(urls=[url], retries=0, request_timeout_s=20.0, transfer="shm")
    cfg.evaluate.suite, cfg.evaluate.sets, cfg.evaluate.label = "robust", ["medqa"], "tiny"
    cfg.evaluate.samples, cfg.evaluate.temperature, cfg.evaluate.max_new_tokens = 2, 1.0, 8
    write_questions(QUESTIONS, root / "prepared" / "evaluation" / "medqa.parquet")
    with Launcher(root / "logs") as launcher:  # starts nothing: the server runs already
        return evaluate_suite(cfg, launcher)


def die_after(rows: int) -> None:
    """Makes this process kill itself when so many questions are in its journals."""
    append, left = Journal.append, [rows]

    def counted(self: Journal, row: dict) -> None:
        append(self, row)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = counted


def texts(rows) -> dict[str, list[str]]:
    return {row["id"]: [response["text"] for response in row["responses"]] for row in rows}


def test_a_suite_goes_on_after_sigkill_in_the_middle_of_its_third_set(tmp_path, monkeypatch):
    with stand_ins(1, TEXTS) as (server,):
        program = [sys.executable, "-m", "tests.integration.test_evaluation_suite", server.url, str(tmp_path)]
        assert subprocess.run(program, timeout=300).returncode == -signal.SIGKILL
        folder = tmp_path / "suite" / "eval" / "tiny-robust"
        begun = folder / "medqa-relabelled.json.parts.jsonl"
        assert set(folder.iterdir()) == {folder / "medqa.json", folder / "medqa-shuffled.json", begun}
        kept = {path: path.read_bytes() for path in folder.glob("*.json")}
        answered = texts(map(json.loads, begun.read_text(encoding="utf-8").splitlines()[1:]))
        assert len(answered) == 3
        asked = []
        append = Journal.append
        monkeypatch.setattr(Journal, "append", lambda self, row: (asked.append(row["id"]), append(self, row))[1])
        page = run_suite(server.url, tmp_path)
        assert len(asked) == 3 + 3 * 6  # the rest of the third task, and three more of six questions
        assert all(path.read_bytes() == before for path, before in kept.items())
        third = EvaluationResult.read(folder / "medqa-relabelled.json")
        assert answered.items() <= texts(third.rows.values()).items()
        assert page == folder / "suite.md" and "| medqa | relabelled |" in page.read_text()
        (harness,) = folder.glob("results_*.json")
        assert len(json.loads(harness.read_text())["results"]) == 6

        run_suite(server.url, tmp_path / "unbroken")
    unbroken = EvaluationResult.read(tmp_path / "unbroken" / "suite" / "eval" / "tiny-robust" / "medqa-relabelled.json")
    assert texts(unbroken.rows.values()) == texts(third.rows.values())


if __name__ == "__main__":
    die_after(KILL_AFTER)
    run_suite(sys.argv[1], Path(sys.argv[2]))
