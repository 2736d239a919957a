"""Recipes in a run folder that another process owns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.run_lock import hold

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "alphamed_nemo" / "assets" / "tiny_base"


@pytest.mark.parametrize("recipe", ["train_grpo", "label_difficulty", "prepare_data", "convert_from_hf", "quickstart"])
def test_a_recipe_in_a_folder_in_use_ends_with_status_2_and_names_the_owner(tmp_path, recipe):
    """The recipe is a process of its own, and its folder is as it was."""
    folder = RunFolder(tmp_path / "mine")
    write_questions(embedded_bank(8, 0)[0], folder.subset)
    settings = [f"run.dir={tmp_path}", "run.name=mine", f"model.path={BASE}", "model.max_length=192"]
    settings += ["rollout.max_new_tokens=48", "label.max_new_tokens=48", f"label.questions={folder.subset}"]
    settings += ["grpo.questions_per_step=8"]
    with hold(folder.lock, "train_grpo"):
        owner = json.loads(folder.lock.read_text())
        words = [sys.executable, ROOT / "recipes" / f"{recipe}.py", *settings]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"in use by train_grpo on {owner['host']} (process {owner['pid']}, started {owner['started']})" in line
    assert sorted(path.name for path in folder.root.iterdir()) == [".lock", "data"]
    assert list(folder.subset.parent.iterdir()) == [folder.subset]


def test_a_second_trainer_of_a_run_folder_ends_with_status_2_and_writes_nothing(tmp_path):
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(tmp_path), "mine"
    folder = RunFolder.of(cfg)
    write_config(cfg, folder.config)
    with hold(folder.trainer_lock, "trainer"):
        words = [sys.executable, "-m", "alphamed_nemo.grpo.worker", str(folder.config)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"RANK": "0"})
    assert done.returncode == 2
    assert f"error: {folder.root} is in use by trainer on {socket.gethostname()} (process {os.getpid()}," in done.stderr
    assert sorted(path.name for path in folder.root.iterdir()) == [".trainer.lock", "config.yaml"]
