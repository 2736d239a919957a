"""What `auto` means for `model.dtype` and `rollout.dtype`, settled once, before any process starts.

1. A run that has checkpoints keeps their dtype, on whatever machine it resumes, is converted or evaluated.
2. With CUDA devices: bfloat16.
3. On CPU hosts: bfloat16 where the processor multiplies bfloat16 matrices (AVX-512 BF16, AMX), as everywhere else that
   models of a billion parameters are trained; float32 elsewhere, where bfloat16 takes several times as long.

Rollouts follow the model. The result goes into the run's config.yaml like any other setting.
"""

from __future__ import annotations

from typing import Literal

from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.processor import Processor, this_processor

AUTO = "auto"


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


def stored_dtype(cfg: Config) -> Dtype | Literal[""]:
    """What the run's newest checkpoint was trained in; empty where there is none, or the run does not resume.

    One whose manifest is damaged does not count; the run will name it.
    """
    checkpoints = manifest.checkpoints_in(RunFolder.of(cfg).checkpoints) if cfg.run.resume else []
    for path in reversed(checkpoints):
        try:
            return manifest.read(path)["dtype"]
        except CheckpointError:
            continue
    return ""
