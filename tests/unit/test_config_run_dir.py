"""ALPHAMED_RUNS is the default of run.dir, for recipes as for the jobs of slurm/, whatever the path is made of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.config.run_folder import RunFolder, fill_paths

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["runs", "my runs", "Läufe für Köln", "a,b", "a=b (c) 'd' \"e\" #f", "[x]{y}", "100% $HOME"]


def training(*overrides: str) -> Config:
    return composed("train_grpo", overrides)


@pytest.mark.parametrize("name", NAMES)
def test_the_variable_is_the_default_of_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ALPHAMED_RUNS", str(tmp_path / name))
    assert Config().run.dir == training().run.dir == str(tmp_path / name)
    cfg = training("experiment=grpo_8b", "experiment/study=alphamed19k")  # refers to ${run.dir}
    assert cfg.grpo.questions == str(tmp_path / name / "alphamed19k" / "data" / "train.jsonl")
    assert fill_paths(cfg).data.train == cfg.grpo.questions
    write_config(cfg, RunFolder.of(cfg).config)
    assert load_config(RunFolder.of(cfg).config) == cfg


def test_a_setting_wins_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAMED_RUNS", "/elsewhere")
    assert training("run.dir=there").run.dir == "there"
    monkeypatch.setenv("ALPHAMED_RUNS", "")
    assert training().run.dir == "runs"
    monkeypatch.delenv("ALPHAMED_RUNS")
    assert training().run.dir == "runs"


def test_the_steps_of_the_page_are_in_the_order_in_which_they_work() -> None:
    steps = (ROOT / "docs" / "slurm.md").read_text().split("```")[1].strip().splitlines()
    words = [step.split("#")[0].strip() for step in steps]
    assert words == [
        "set -a; source slurm/site.env; set +a",
        "./run prepare_data experiment=grpo_8b",
        "slurm/grpo_8b.sh --dry-run",
        "slurm/pipeline.sh 8b",
    ]
    example = (ROOT / "slurm" / "site.env.example").read_text()
    shell = f"set -a; {example}\nset +a; env"
    printed = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert "ALPHAMED_RUNS=/shared/alphamed/runs" in printed.stdout.splitlines()
