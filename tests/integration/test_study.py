"""A study on the real parts, as one command: two variants, one seed, two steps; and what a second start does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 1800
TINY = ["data.train_questions=64", "data.heldout_questions=16", "data.validation_questions=0", "validate.every=0"]
TINY += ["label.samples=2", "rollout.engines=1", "rollout.memory_gb=0.5", "rollout.max_new_tokens=24"]
TINY += ["grpo.steps=2", "grpo.questions_per_step=4", "grpo.samples_per_question=2", "study.seeds=1"]


def study(folder: Path, *settings: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "recipes" / "study.py", f"run.dir={folder}", *TINY, *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.nightly  # starts vLLM five times
def test_a_study_is_run_and_is_not_run_again(tmp_path: Path) -> None:
    done = study(tmp_path, "study.sizes=[4,8]")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    root = tmp_path / "study_quantity"
    found = json.loads((root / "study.json").read_text())
    assert found["runs"] == {"finished": 2, "planned": 2}
    assert [variant["questions"] for variant in found["variants"]] == [12, 24]
    assert [variant["runs"][0]["folder"] for variant in found["variants"]] == [
        "questions_12-seed1",
        "questions_24-seed1",
    ]
    assert len(found["base"]) == 2 and len(found["comparisons"]) == 1
    for name in ("questions_12-seed1", "questions_24-seed1"):
        run = root / name
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
        assert (run / "hf" / "model.safetensors").is_file() and not (run / "data" / "labelling.jsonl").exists()
    assert "What this cannot show" in (root / "report" / "index.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in root.rglob("metrics.jsonl")}
    again = study(tmp_path, "study.sizes=[4,8]")
    assert again.returncode == 0 and "2 of 2 runs" in again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("metrics.jsonl")} == before
    other = study(tmp_path, "study.sizes=[4,8]", "grpo.steps=3")
    assert other.returncode == 2 and "grpo.steps: " in other.stderr and "was begun with 2" in other.stderr
