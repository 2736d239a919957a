"""Loggers besides TensorBoard. MLflow's package is no requirement: what Lightning's logger of it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.loggers import ExperimentLoggers, mlflow_logger


@pytest.mark.parametrize(
    ("uri", "given", "expected"),
    [
        ("", {}, {}),
        ("https://mlflow.example.org", {}, {"tracking_uri": "https://mlflow.example.org"}),
        ("", {"experiment_name": "mine", "tags": {"a": "b"}}, {"experiment_name": "mine", "tags": {"a": "b"}}),
    ],
)
def test_mlflow_goes_where_environment_and_settings_say_and_else_into_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, given: dict, expected: dict
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("lightning.pytorch.loggers.MLFlowLogger", dict)
    cfg = Config()
    cfg.run.name, cfg.exp_manager = "ward", {"mlflow_logger_kwargs": given}
    usual = {"experiment_name": "alphamed-nemo", "run_name": "ward", "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    assert mlflow_logger(cfg, tmp_path) == usual | expected


ROWS = [
    {"question_id": "q0", "level": None, "answer": "A", "right": True, "response": "ü </script>"},
    {"question_id": "q1", "level": 3, "answer": None, "right": False, "response": ""},
]


def test_weights_and_biases_gets_a_table_of_each_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ExperimentLoggers([logger := WandbLogger(offline=True, save_dir=tmp_path)], tmp_path).table("validation/a", ROWS, 5)
    logger.experiment.log({"validation/accuracy": 0.5})
    wandb.finish()
    (written,) = tmp_path.rglob("*.table.json")
    table = json.loads(written.read_text())
    assert table["columns"] == list(ROWS[0]) and table["data"] == [list(row.values()) for row in ROWS]


class Recorded(MLFlowLogger):
    """Lightning's, with a client that keeps what it is sent."""

    run_id = "run"

    def __init__(self) -> None:
        self.sent: list = []

    @property
    def experiment(self):
        return self

    def log_table(self, *sent) -> None:
        self.sent.append(sent)


def test_mlflow_gets_a_table_of_each_validation_in_a_file_of_its_own(tmp_path: Path) -> None:
    loggers = ExperimentLoggers([logger := Recorded()], tmp_path)
    for step in (0, 5):
        loggers.table("validation/answers", ROWS, step)
    data = {column: [row[column] for row in ROWS] for column in ROWS[0]}
    assert logger.sent == [("run", data, f"validation/answers/step_{step}.json") for step in (0, 5)]
