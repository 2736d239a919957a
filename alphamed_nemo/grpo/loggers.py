"""TensorBoard, Weights & Biases and MLflow through NeMo's exp_manager. Imports NeMo: trainer rank 0 only."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.config.run_folder import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

MLFLOW_KWARGS = "mlflow_logger_kwargs"


def experiment_loggers(cfg: Config) -> ExperimentLoggers:
    """Every logger of the run, called with (metrics, step).

    TensorBoard always, the others as `run.loggers` says. A bare Lightning Trainer carries the loggers and does nothing
    else: checkpoints, preemption and resuming are Megatron's and ours. `exp_manager.*` settings are passed on and win.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.pytorch import Trainer
        from nemo.utils.exp_manager import exp_manager
    for name in ("lightning.pytorch", "nemo_logger"):
        logging.getLogger(name).setLevel(logging.WARNING)
    folder: Path = RunFolder.of(cfg).root
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=1,
        logger=False,
        enable_checkpointing=False,
        plugins=[LightningEnvironment()],  # else Lightning sees srun's or torchrun's ranks and wants to use them all
    )
    settings = {
        "explicit_log_dir": str(folder / "tensorboard"),
        "create_tensorboard_logger": True,
        "create_wandb_logger": "wandb" in cfg.run.loggers,
        "wandb_logger_kwargs": {"name": cfg.run.name, "project": "alphamed-nemo"},
        "create_checkpoint_callback": False,
        "create_preemption_callback": False,
        "log_step_timing": False,
        "disable_validation_on_resume": False,
        "resume_if_exists": False,
    }
    if "wandb" not in cfg.run.loggers:
        settings.pop("wandb_logger_kwargs")
    given = {name: value for name, value in cfg.exp_manager.items() if name != MLFLOW_KWARGS}
    exp_manager(trainer, {**settings, **given})
    mlflow = [mlflow_logger(cfg, folder)] if "mlflow" in cfg.run.loggers else []
    return ExperimentLoggers([*trainer.loggers, *mlflow], folder)


def mlflow_logger(cfg: Config, folder: Path) -> Logger:
    """MLflow's, of Lightning: NeMo's exp_manager names its run twice, which is an error.

    Goes where MLFLOW_TRACKING_URI says, or to `mlflow.db` in the run folder. A resumed run is another run of MLflow's.
    """
    from lightning.pytorch.loggers import MLFlowLogger

    where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    named: dict[str, Any] = {"experiment_name": "alphamed-nemo", "run_name": cfg.run.name, "tracking_uri": where}
    return MLFlowLogger(**{**named, **cfg.exp_manager.get(MLFLOW_KWARGS, {})})


class ExperimentLoggers:
    """Feeds loggers with (metrics, step), and with tables those that show them."""

    def __init__(self, loggers: Sequence[Any], folder: Path) -> None:
        self.loggers, self.folder = loggers, folder

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        with writing(self.folder):
            for logger in self.loggers:
                logger.log_metrics(metrics, step)
                logger.save()

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Shows rows of the same keys in Weights & Biases, and as a table among MLflow's artifacts."""
        from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

        columns = list(rows[0])
        with writing(self.folder):
            for logger in self.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_table(name, columns, [list(row.values()) for row in rows], step=step)
                elif isinstance(logger, MLFlowLogger):
                    data = {column: [row[column] for row in rows] for column in columns}
                    logger.experiment.log_table(logger.run_id, data, f"{name}/step_{step}.json")

    def rewind(self, step: int) -> None:
        """Declares void what an earlier attempt wrote to TensorBoard after `step`, so that no step is shown twice."""
        from torch.utils.tensorboard import SummaryWriter

        for writer in (logger.experiment for logger in self.loggers):
            if isinstance(writer, SummaryWriter):
                writer.close()  # it writes the mark into the file that it opens next
                writer.purge_step = step + 1
