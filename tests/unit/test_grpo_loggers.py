"""MLflow's logger, whose package is no requirement: what Lightning's is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.loggers import mlflow_logger


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
