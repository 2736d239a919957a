"""What `auto` means for `model.dtype` and `rollout.dtype`, settled once, before any process starts.

1. A run that has checkpoints keeps their dtype, on whatever machine it resumes, is converted or evaluated.
2. With CUDA devices: bfloat16.
3. On CPU hosts: bfloat16 where the processor multiplies bfloat16 matrices (AVX-512 BF16, AMX), as everywhere else that
   models of a billion parameters are trained; float32 elsewhere, where bfloat16 takes several times as long.

Rollouts follow the model. The result goes into the run's config.yaml like any other setting.
"""

from __future__ import annotations

import logging

import yaml

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.launch.components import trainer_threads
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.processor import Processor, this_processor
from alphamed_nemo.rollout.vllm_command import engine_threads

AUTO = "auto"

log = logging.getLogger(__name__)


def settle_dtypes(cfg: Config, cuda: bool, processor: Processor | None = None) -> None:
    """Puts a dtype in the place of each `auto`.

    Args:
        cfg: changed: `model.dtype` and `rollout.dtype`.
        cuda: whether the run is on GPUs.
        processor: of the CPU host; this machine's if None.
    """
    if cfg.model.dtype == AUTO:
        here = "bfloat16" if cuda else (processor or this_processor()).fastest_dtype
        cfg.model.dtype = stored_dtype(cfg) or here
    if cfg.rollout.dtype == AUTO:
        cfg.rollout.dtype = cfg.model.dtype


def announce_processor(cfg: Config, processor: Processor | None = None) -> None:
    """Says what a run on a CPU host computes with, and warns of bfloat16 where that is slow. Dtypes are settled."""
    if cuda_is_available():
        return
    processor = processor or this_processor()
    log.info(
        "%s; trainer: %s, %d × %d threads; vLLM: %s, %d × %d threads",
        processor,
        cfg.model.dtype,
        cfg.parallel.world_size,
        trainer_threads(cfg),
        cfg.rollout.dtype,
        cfg.rollout.world_size,
        engine_threads(cfg.rollout),
    )
    asked = [f"{group}.dtype" for group in ("model", "rollout") if getattr(cfg, group).dtype == "bfloat16"]
    if asked and processor.bfloat16_slower:
        log.warning(
            "%s: bfloat16 takes about %d times as long as float32 on this processor, which has no instructions for it; "
            "a new run is faster with float32 or auto",
            " and ".join(asked),
            processor.bfloat16_slower,
        )


def cuda_is_available() -> bool:
    """Whether this machine has a GPU that torch can use. Imports torch, which takes seconds."""
    import torch

    return torch.cuda.is_available()


def stored_dtype(cfg: Config) -> str:
    """What the run's newest checkpoint was trained in; empty where there is none, or the run does not resume.

    Checkpoints that do not say it (of versions that did not write it) have the dtype of the run's config.yaml.
    """
    folder = RunFolder.of(cfg)
    checkpoints = [path for path in folder.checkpoints.glob("step_*") if (path / manifest.NAME).is_file()]
    if not cfg.run.resume or not checkpoints:
        return ""
    newest = max(checkpoints, key=lambda path: int(path.name.removeprefix("step_")))
    if dtype := manifest.trained_dtype(newest):
        return dtype
    before = yaml.safe_load(folder.config.read_text())["model"]["dtype"] if folder.config.is_file() else AUTO
    return "" if before == AUTO else before
