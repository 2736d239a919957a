"""TensorBoard, Weights & Biases and MLflow through NeMo's exp_manager. Imports NeMo: trainer rank 0 only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.config.run_folder import RunFolder


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
        "create_mlflow_logger": "mlflow" in cfg.run.loggers,
        "create_checkpoint_callback": False,
        "create_preemption_callback": False,
        "log_step_timing": False,
        "disable_validation_on_resume": False,
        "resume_if_exists": False,
    }
    if "wandb" not in cfg.run.loggers:
        settings.pop("wandb_logger_kwargs")
    exp_manager(trainer, {**settings, **cfg.exp_manager})

    return ExperimentLoggers(trainer.loggers, folder)


class ExperimentLoggers:
    """Feeds loggers with (metrics, step)."""

    def __init__(self, loggers: Sequence[Any], folder: Path) -> None:
        self.loggers, self.folder = loggers, folder

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        with writing(self.folder):
            for logger in self.loggers:
                logger.log_metrics(metrics, step)
                logger.save()

    def rewind(self, step: int) -> None:
        """Declares void what an earlier attempt wrote to TensorBoard after `step`, so that no step is shown twice."""
        from torch.utils.tensorboard import SummaryWriter

        for writer in (logger.experiment for logger in self.loggers):
            if isinstance(writer, SummaryWriter):
                writer.close()  # it writes the mark into the file that it opens next
                writer.purge_step = step + 1
