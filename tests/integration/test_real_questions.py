"""From published questions to a report in one go, where a folder of real questions lies beside the project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
BASE = ROOT / "alphamed_nemo" / "assets" / "tiny_base"
LIMIT_S = 600

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no folder of real questions at ../shared/data")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny base model with room for real questions; it knows nothing of them."""
    folder = tmp_path / "base"
    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


def test_real_questions_are_prepared_labelled_trained_on_and_evaluated_in_one_go(base: Path, tmp_path: Path) -> None:
    medqa, medmcqa = REAL / "medqa" / "questions_us_4_options_300.jsonl", REAL / "medmcqa" / "dev_300.json"
    pubmedqa, medxpertqa = REAL / "pubmedqa" / "ori_pqal_300.json", REAL / "medxpertqa" / "text_100.jsonl"
    settings = [f"run.dir={tmp_path}", "run.name=real", "data.source=sources", "data.prompt=alphamed"]
    settings += [f"+sources.train.medqa={{path: {medqa}, rows: 12}}"]
    settings += [f"+sources.train.medmcqa={{path: {medmcqa}, rows: 60}}"]
    settings += [f"+sources.evaluation.pubmedqa={{path: {pubmedqa}, rows: 6}}"]
    settings += [f"+sources.evaluation.medxpertqa={{path: {medxpertqa}, rows: 6}}", "sources.max_unusable_share=0.1"]
    settings += [f"model.path={base}", "model.max_length=4096", "label.samples=2", "label.max_new_tokens=16"]
    settings += ["label.subset=by_dataset", "label.per_level=3", "rollout.max_new_tokens=16"]
    settings += ["evaluate.max_new_tokens=16", "evaluate.protocol=lenient", "grpo.steps=2"]
    settings += ["grpo.questions_per_step=4", "grpo.samples_per_question=2"]
    settings += ["data.validation_questions=0", "validate.every=0"]
    made = subprocess.run(
        [sys.executable, ROOT / "recipes" / "quickstart.py", *settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]

    run = tmp_path / "real"
    labelled = [json.loads(line) for line in (run / "data" / "labelled.jsonl").read_text().splitlines()]
    assert {row["dataset"] for row in labelled} == {"medqa", "medmcqa"} and len(labelled) >= 70
    assert all(1 <= row["level"] <= 3 and row["metadata"]["tokens"] > 0 for row in labelled)
    subset = [json.loads(line) for line in (run / "data" / "subset.jsonl").read_text().splitlines()]
    assert {row["dataset"] for row in subset} == {"medqa", "medmcqa"}
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["logprob_difference_max"] <= 1e-4 for row in steps)
    trained = json.loads((run / "eval" / "trained.json").read_text())
    assert {name: part["n"] for name, part in trained["by_dataset"].items()} == {"medxpertqa": 6, "pubmedqa": 6}
    assert "Expected effective queries" in (run / "report" / "index.html").read_text()
