"""Megatron's distributed data parallelism, distributed optimizer (AdamW) and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from alphamed_nemo.config import OptimConfig

SCHEDULES = ("constant", "linear", "cosine")


def wrap(
    chunks: Sequence[GPTModel], overlap: bool | None = None, overlap_param_gather: bool = False
) -> list[DistributedDataParallel]:
    """Wraps model chunks for training: gradients in one float32 buffer, reduce-scattered over data-parallel ranks.

    Args:
        chunks: this rank's.
        overlap: reduce gradients while the last micro-batch still runs backward; None: on GPUs, where another stream
            can do it.
        overlap_param_gather: gather updated weights while the next forward pass runs.
    """
    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=torch.cuda.is_available() if overlap is None else overlap,
        overlap_param_gather=overlap_param_gather,
        check_for_nan_in_grad=False,  # it would stop one rank and leave the others waiting: see policy/finite.py
    )
    wrapped = [
        DistributedDataParallel(chunk.config, config, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]
    for chunk in wrapped:
        chunk.broadcast_params()
    # The schedules use it to hold reductions back until the last micro-batch.
    no_sync = [chunk.no_sync for chunk in wrapped]
    # Megatron's own annotation has no room for the list that its interleaved schedule takes.
    wrapped[0].config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped


def gather_weights(chunks: Sequence[torch.nn.Module]) -> None:
    """To be called before weights are read other than by a training step. Collective over data-parallel ranks.

    With `parallel.overlap_param_gather` an update gives each rank the new values of its own share of the parameters
    alone, and the next training step's forward pass gathers the others, layer by layer. Does nothing without it.

    Args:
        chunks: this rank's, wrapped by `wrap` or not.
    """
    for chunk in chunks:
        if isinstance(chunk, DistributedDataParallel) and chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def build_optimizer(
    chunks: list[DistributedDataParallel], optim: OptimConfig, total_steps: int | None = None
) -> tuple[Any, OptimizerParamScheduler]:
    """AdamW with its state divided over data-parallel ranks, and the schedule that sets its learning rate.

    It takes float32 copies of the parameters as they are now, so weights are loaded before.

    Args:
        chunks: from `wrap`.
        optim: `clip_grad` 0 turns clipping off; the norm is still measured.
        total_steps: optimizer steps of the whole run; linear and cosine schedules end there.

    Returns:
        (Megatron's optimizer, its schedule).

    Raises:
        ValueError: a schedule that is unknown or does not fit `total_steps`.
    """
    config = chunks[0].config
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=optim.lr,
            min_lr=optim.min_lr,
            weight_decay=optim.weight_decay,
            adam_beta1=optim.beta1,
            adam_beta2=optim.beta2,
            adam_eps=optim.eps,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=True,
            overlap_param_gather=chunks[0].ddp_config.overlap_param_gather,
            optimizer_cpu_offload=optim.offload,
            optimizer_offload_fraction=1.0 if optim.offload else 0.0,
            use_precision_aware_optimizer=optim.offload,  # the offloaded optimizer takes that code path
            overlap_cpu_optimizer_d2h_h2d=optim.offload,
            # 0 would skip the norm; against an infinite limit it is measured and never scales.
            clip_grad=optim.clip_grad or math.inf,
        ),
        [*chunks],
        use_gloo_process_groups=torch.cuda.is_available(),
    )
    if not torch.cuda.is_available():
        for group in optimizer.param_groups:
            group["fused"] = True  # torch's own kernel: one pass over memory, and no copy of the second moments
    return optimizer, _schedule(optimizer, optim, total_steps)


def _schedule(optimizer: Any, optim: OptimConfig, total_steps: int | None) -> OptimizerParamScheduler:
    if optim.schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule is {optim.schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if optim.schedule == "constant":
        total_steps = optim.warmup_steps + 1  # not used, but Megatron wants one that is larger
    elif total_steps is None:
        raise ValueError(f"optim.schedule={optim.schedule} needs the number of optimizer steps; none was given")
    if optim.warmup_steps >= total_steps:
        raise ValueError(f"optim.warmup_steps is {optim.warmup_steps}; expected fewer than the run's {total_steps}")
    if optim.min_lr > optim.lr:
        raise ValueError(f"optim.min_lr is {optim.min_lr}, above optim.lr={optim.lr}")
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        lr_warmup_steps=optim.warmup_steps,
        lr_decay_steps=total_steps,
        lr_decay_style=optim.schedule,
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        # A loaded state says how many updates were made, and nothing else: the settings of now say what follows.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
