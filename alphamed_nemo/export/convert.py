"""Whole conversions, as the recipes call them: a run's checkpoint to a release folder, and a folder to a checkpoint."""

from __future__ import annotations

import ctypes
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig

from alphamed_nemo.config import Config, ModelConfig, ParallelConfig
from alphamed_nemo.export.card import ModelCard
from alphamed_nemo.export.release import DTYPES, export_hf
from alphamed_nemo.export.verify import compare_logits, compare_logprobs, megatron_logits, probe
from alphamed_nemo.policy import checkpoint, manifest, runtime
from alphamed_nemo.policy.checkpoint_weights import CheckpointWeights
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights import Read, stream_stored
from alphamed_nemo.run_folder import RunFolder

logger = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        folder: the release folder, or the checkpoint.
        step: of training.
        difference: the largest that was found between Megatron and transformers, in logits or log-probabilities.
    """

    folder: Path
    step: int
    difference: float


def convert_to_hf(cfg: Config, evaluation: Sequence[dict[str, Any]] = ()) -> Conversion:
    """Writes a run's checkpoint as a release folder and checks it against transformers.

    In one process, whatever the layout of training. The model is never in memory: weights are read, converted and
    written a layer at a time, and compared with transformers in the same way, in float32 (export/verify.py).

    Args:
        cfg: `export` says what and where; empty values mean the run's newest checkpoint and its `hf` folder.
        evaluation: rows for the model card's table.

    Raises:
        ValueError: there is no checkpoint, or a setting cannot work.
        CheckpointError: the checkpoint is damaged or belongs to another model.
        ConversionError: transformers computes something else from the new folder, which is not kept.
    """
    source = _checkpoint(cfg)
    step = json.loads((source / checkpoint.STATE).read_text())["step"]
    base, out = Path(cfg.model.path), Path(cfg.export.out or RunFolder.of(cfg).hf)
    dtype = cfg.export.dtype or manifest.trained_dtype(source) or cfg.model.dtype

    runtime.initialize(ParallelConfig())
    _return_freed_memory()
    hf_config = AutoConfig.from_pretrained(base)
    skeleton = build_skeleton(hf_config)
    read = partial(CheckpointWeights(skeleton, source).read, dtype=DTYPES[dtype])
    found: list[float] = []

    def check(folder: Path) -> float:
        ids = probe(hf_config.vocab_size)
        logits = megatron_logits(skeleton, partial(_float32, read), ids)
        found.append(compare_logits(logits, folder, ids, cfg.export.max_logit_difference))
        return found[0]

    folder = export_hf(
        stream_stored(skeleton, hf_config, read),
        hf_config,
        base,
        out,
        dtype,
        shard_gb=cfg.export.shard_gb,
        card=card_of(cfg, step, evaluation),
        config=cfg,
        checkpoint=source,
        check=check,
        step=step,
    )
    (difference,) = found
    logger.info("%s: step %d of %s; logits differ from Megatron's by %.2g", folder, step, source, difference)
    return Conversion(folder, step, difference)


def convert_from_hf(cfg: Config, out: str | Path) -> Conversion:
    """Writes a Hugging Face folder (`model.path`) as a checkpoint `step_0`, weights alone. Collective in `parallel`.

    Raises:
        ConversionError: the policy's log-probabilities are not transformers'.
    """
    policy = MegatronPolicy(ModelConfig(path=cfg.model.path, dtype="float32"), cfg.parallel, None, cfg.model.path)
    ids = probe(policy.hf_config.vocab_size, lengths=(2, 17, 64))
    difference = compare_logprobs(policy, cfg.model.path, ids, cfg.export.max_logit_difference)
    folder = Path(out) / "step_0"
    checkpoint.save(policy, folder, {"step": 0})
    return Conversion(folder, 0, difference)


def card_of(cfg: Config, step: int, evaluation: Sequence[dict[str, Any]] = ()) -> ModelCard:
    """A model card from a run's settings."""
    grpo, rollout = cfg.grpo, cfg.rollout
    settings = {
        "Updates": step,
        "Questions a step × samples": f"{grpo.questions_per_step} × {grpo.samples_per_question}",
        "Advantage": grpo.advantage,
        "Loss": f"{grpo.loss}, {grpo.aggregation}, clip {grpo.clip_low} / {grpo.clip_high}, KL {grpo.kl_coef}",
        "Learning rate": f"{cfg.optim.lr:g}, {cfg.optim.schedule}",
        "Sampling temperature": rollout.temperature,
        "Longest response": f"{rollout.max_new_tokens} tokens",
        "Answer rule": cfg.reward.protocol,
        "Precision": cfg.model.dtype,
    }
    data = (
        "Questions of an invented clinic, generated by AlphaMed-NeMo to try the method; nothing in them is medicine."
        if cfg.data.source == "clinic"
        else f"Multiple-choice questions of {Path(cfg.data.source).name}."
    )
    return ModelCard(
        name=cfg.run.name, base_model=Path(cfg.model.path).name, data=data, settings=settings, evaluation=evaluation
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether this is a checkpoint of training rather than a Hugging Face folder."""
    return (folder / checkpoint.STATE).is_file() and not (folder / "config.json").exists()


def _checkpoint(cfg: Config) -> Path:
    """The checkpoint to convert, whole."""
    checkpoints = RunFolder.of(cfg).checkpoints
    chosen = checkpoint.best(checkpoints) if cfg.export.checkpoint == "best" else cfg.export.checkpoint
    if chosen:
        folder = Path(chosen)
        if problems := manifest.damage(folder):
            raise checkpoint.CheckpointError(f"{folder}: {'; '.join(problems)}")
        return folder
    newest = checkpoint.latest(checkpoints)
    if newest is None:
        raise ValueError(f"export.checkpoint: empty, and {checkpoints} holds none; train first, or name a checkpoint")
    return newest


def _return_freed_memory() -> None:
    """Makes glibc return every tensor to the system once it is freed, for the rest of this process.

    It keeps blocks below 32 MB for later, and in its fragments as much as the model comes together, layer by layer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**20)


def _float32(read: Read, names: list[str]) -> dict[str, Tensor]:
    """Weights with the values that they have in the release, to compute with."""
    weights = read(names)
    return {name: weights.pop(name).float() for name in names}
