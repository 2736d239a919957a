"""Whole conversions, as the recipes call them: a run's checkpoint to a release folder, and a folder to a checkpoint."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig

from alphamed_nemo.config import Config, ModelConfig, ParallelConfig
from alphamed_nemo.config.run_folder import RunFolder, step_name
from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export.base_model import BaseModel
from alphamed_nemo.export.peft_adapter import export_adapter
from alphamed_nemo.export.release import DTYPES, Origin, export_hf
from alphamed_nemo.export.training_record import TrainingRecord
from alphamed_nemo.export.verify import Proof, prove
from alphamed_nemo.grpo.identity import KEY, base_contents
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint.adapted_weights import lora_of, open_weights
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights.stored import stream_stored

logger = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        folder: the release folder, or the checkpoint.
        step: of training.
        proof: what was compared between the folder and the checkpoint.
    """

    folder: Path
    step: int
    proof: Proof


def convert_to_hf(cfg: Config) -> Conversion:
    """Writes a run's checkpoint as a release folder and proves that it is the same model (export/verify.py).

    In one process, whatever the layout of training. The model is never in memory: weights are read, converted, written
    and compared a layer at a time.

    Args:
        cfg: `export` says what and where; empty values mean the run's newest checkpoint and its `hf` folder. All that
            the folder says of the training comes from the run's own files, whatever else is in `cfg`.

    Raises:
        ValueError: there is no checkpoint, a setting cannot work, or a text of the release must not be published.
        CheckpointError: the checkpoint is damaged or belongs to another model.
        ConversionError: the new folder is another model. It is kept under the temporary name that the message gives,
            and an earlier release under its own.
    """
    source = _checkpoint(cfg)
    origin = origin_of(cfg, source)
    _check_base(cfg, origin, source)
    step, base, out = origin.record.step, origin.base.folder, Path(cfg.export.out or RunFolder.of(cfg).hf)
    dtype = cfg.export.dtype or origin.trained_dtype

    runtime.initialize(ParallelConfig())
    _return_freed_memory()
    hf_config = AutoConfig.from_pretrained(base)
    skeleton = build_skeleton(hf_config)
    read = partial(open_weights(skeleton, hf_config, source, base).read, dtype=DTYPES[dtype])
    proofs: list[Proof] = []

    def check(folder: Path) -> float:
        proofs.append(_kept(folder, lambda: prove(hf_config, source, folder, DTYPES[dtype], "folder", base)))
        return proofs[0].difference

    folder = export_hf(
        stream_stored(skeleton, hf_config, read),
        hf_config,
        origin,
        out,
        dtype,
        shard_gb=cfg.export.shard_gb,
        check=check,
    )
    assert folder is not None, "this process is rank 0"
    (proof,) = proofs
    logger.info("%s: step %d of %s; %s", folder, step, source, proof)
    return Conversion(folder, step, proof)


def convert_from_hf(cfg: Config, out: str | Path) -> Conversion:
    """Writes a Hugging Face folder (`model.path`) as a checkpoint `step_0`, weights alone, and proves it as above.

    In one process: any layout reads any checkpoint. It holds the model in float32 until the checkpoint is written.

    Raises:
        ValueError: the folder is not one that can be built.
        ConversionError: the checkpoint is another model. It is kept under the temporary name that the message gives.
    """
    folder, base = Path(out) / step_name(0), Path(cfg.model.path)
    unproven = folder.with_name(f".{folder.name}.unproven")
    policy = MegatronPolicy(ModelConfig(path=str(base), dtype="float32"), ParallelConfig(), None, base)
    checkpoint.save(policy, unproven, {"step": 0})
    hf_config = policy.hf_config
    del policy
    proof = _kept(unproven, lambda: prove(hf_config, unproven, base, torch.float32, "checkpoint", base))
    if folder.exists():
        shutil.rmtree(folder)
    unproven.rename(folder)
    return Conversion(folder, 0, proof)


def _kept(made: Path, proof: Callable[[], Proof]) -> Proof:
    """The proof of what was made; a refusal says where it is."""
    try:
        return proof()
    except ConversionError as error:
        raise ConversionError(f"{error}; kept for inspection, and not to be used: {made}") from error


def convert_to_adapter(cfg: Config) -> Path:
    """Writes the adapters of a run with LoRA for PEFT: `export.adapter`, to `export.out` or the run's `adapter`.

    Raises:
        ValueError: there is no checkpoint, it holds no adapters, or a setting cannot work.
        CheckpointError: the checkpoint is damaged or belongs to another model.
    """
    source = _checkpoint(cfg)
    if lora_of(source) is None:
        raise ValueError(f"export.adapter: {source} was trained without LoRA and has no adapter; set it to false")
    origin = origin_of(cfg, source)
    _check_base(cfg, origin, source)
    out = Path(cfg.export.out or RunFolder.of(cfg).adapter)
    folder = export_adapter(source, origin, out, cfg.export.dtype or origin.trained_dtype)
    logger.info("%s: the adapter of step %d of %s", folder, origin.record.step, source)
    return folder


def _check_base(cfg: Config, origin: Origin, source: Path) -> None:
    """That a checkpoint with LoRA is merged with the weights that it was trained on.

    Raises:
        ValueError: they are others.
    """
    trained_on = checkpoint.read_state(source).get(KEY, {}).get("contents", {}).get("model.path")
    if lora_of(source) is None or trained_on is None:
        return
    cache = (origin.record.folder or RunFolder.of(cfg)).hashes
    if base_contents(origin.base.folder, cache) != trained_on:
        raise ValueError(
            f"model.path: {origin.base.folder} holds other weights than those that {source} has adapters for; restore "
            "them, or name the folder that has them"
        )


def origin_of(cfg: Config, source: Path) -> Origin:
    """What is known of a checkpoint, and of the model that it was trained from.

    That model is the one that the run's config.yaml names. `model.path` is for a checkpoint without a run, and for a
    base model that has moved.

    Raises:
        ValueError: the base model's folder is in neither place.
    """
    record = TrainingRecord.of(source)
    trained_from = record.get("model.path", "")
    folder, given = record.locate(trained_from), cfg.model.path
    if folder is None and not Path(given, "config.json").is_file():
        known = f"the run's config.yaml names {trained_from}, which is not there" if trained_from else "no run names it"
        problem = f": found {given!r}, expected the folder of" if given else " is not set; give the folder of"
        raise ValueError(f"model.path{problem} the base model: {known}")
    if folder is not None and given and Path(given).resolve() != folder.resolve():
        logger.warning("model.path: the run was trained from %s; that is used, and not %s", folder, given)
    return Origin(BaseModel.of(folder or given, trained_from), record)


def is_checkpoint(folder: Path) -> bool:
    """Whether this is a checkpoint of training rather than a Hugging Face folder."""
    return (folder / checkpoint.STATE).is_file() and not (folder / "config.json").exists()


def _checkpoint(cfg: Config) -> Path:
    """The checkpoint to convert, whole."""
    checkpoints, chosen = RunFolder.of(cfg).checkpoints, cfg.export.checkpoint
    if chosen == "best":
        chosen = checkpoint.best(checkpoints)
        if chosen is None:
            raise ValueError(
                f"export.checkpoint: best, but no whole checkpoint in {checkpoints} was validated (validate.every), or "
                "has a reward that can be compared with others' (with grpo.dynamic_sampling or grpo.curriculum none "
                "has); leave it empty for the newest, or name a folder"
            )
    if chosen:
        folder = Path(chosen)
        if problems := checkpoint.damage(folder):
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
