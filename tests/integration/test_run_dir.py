"""A recipe and a job's first step in processes of their own: the run folder is ALPHAMED_RUNS of one site.env."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alphamed_nemo.data.io import read_questions

ROOT = Path(__file__).resolve().parents[2]
NAME = "Läufe, alte und neue"
LIMIT_S = 300


def test_recipes_and_jobs_take_the_run_folder_of_one_site(tmp_path: Path) -> None:
    runs, site = tmp_path / NAME, tmp_path / "site.env"
    site.write_text(f'ALPHAMED_RUNS="{runs}"\nALPHAMED_PYTHON="{sys.executable}"\n')
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    recipe = f'"{sys.executable}" "{ROOT}/recipes/prepare_data.py" data.train_questions=8 data.heldout_questions=4'
    command = ["bash", "-c", f'set -a; source "{site}"; set +a; exec {recipe}']
    made = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert made.returncode == 0, made.stderr
    assert len(read_questions(runs / "run" / "data" / "train.jsonl")) == 8
    assert {path.name for path in tmp_path.iterdir()} == {NAME, "site.env"}

    command, env["ALPHAMED_SITE"] = [ROOT / "slurm" / "grpo_tiny.sh", "--dry-run"], str(site)
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert shown.returncode == 0, shown.stderr
    assert f"run       {runs / 'tiny'}: " in shown.stdout
