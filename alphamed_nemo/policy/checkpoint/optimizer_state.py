"""Megatron's distributed optimizer into and out of a checkpoint that any layout can load.

The state has the form that Megatron calls `fully_reshardable`: the float32 parameters and Adam's two moments in the
shapes of the model's parameters. Four things go wrong in Megatron-Core 0.16.1's own way there, and this file puts them
right:

- Its gathered buffer leaves out the padding between buckets, and then cuts parameters out of it at places that count
  this padding: behind the first bucket that is padded, parameters and moments are saved shifted. Parameters whose
  sizes are multiples of 128 never show it.
- Before the first update torch's AdamW, which Megatron takes where there is no fused Adam, has no state; saving and
  loading both need one.
- AdamW keeps `step` beside the moments of each parameter, where loading looks it up among the loaded tensors and ends
  in KeyError 'step'.
- Loading leaves one `step` tensor shared by all parameters, so that each update would count once for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from torch import Tensor

_KINDS = ("param", "exp_avg", "exp_avg_sq")
_PROGRESS = ("params", "step")  # of a parameter group; all else of it are settings


def sharded_state(optimizer: Any, model_state: dict[str, Any], loading: bool) -> dict[str, Any]:
    """The optimizer's sharded state dict. Collective over data-parallel ranks unless `loading`.

    Args:
        optimizer: from `get_megatron_optimizer`, with the distributed optimizer.
        model_state: sharded state dict of the unwrapped model; its tensors tell the optimizer's how they are cut.
        loading: the state is a template to load into.
    """
    distributed = _distributed(optimizer)
    _allocate(distributed)
    shards, _ = extract_sharded_tensors_and_factories(model_state)
    shard_of = {shard.data: shard for shard in nested_values(shards)}
    tensors = {}
    for index, (parameter, full) in enumerate(_parameters(distributed, loading)):
        shard = shard_of[parameter]
        tensors[index] = {kind: _like(shard, kind, full[kind].view(parameter.shape)) for kind in _KINDS}
    return {**distributed.state_dict(), "param_state": tensors}


def load_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Takes over a loaded state dict: step, float32 parameters and moments.

    Hyper-parameters (rates, decay, betas, eps) stay those of this optimizer: the present settings decide them.
    """
    distributed = _distributed(optimizer)
    state = dict(state)
    tensors = state.pop("param_state")
    groups = distributed.optimizer.param_groups
    settings = [{key: value for key, value in group.items() if key not in _PROGRESS} for group in groups]
    distributed.load_state_dict(state)
    for group, values in zip(distributed.optimizer.param_groups, settings, strict=True):
        group.update(values)
    per_parameter = distributed.optimizer.state
    steps = {parameter: values.pop("step") for parameter, values in per_parameter.items() if "step" in values}
    distributed.load_parameter_state_from_fully_reshardable(tensors)
    for parameter, step in steps.items():
        per_parameter[parameter]["step"] = step.clone()


def _distributed(optimizer: Any) -> Any:
    """The one DistributedOptimizer; dense models have no other in their chain."""
    chain = getattr(optimizer, "chained_optimizers", [optimizer])
    if len(chain) != 1 or not hasattr(chain[0], "load_parameter_state_from_fully_reshardable"):
        kinds = ", ".join(type(part).__name__ for part in chain)
        raise ValueError(f"checkpoints need one DistributedOptimizer; found {kinds}")
    return chain[0]


def _allocate(distributed: Any) -> None:
    """Zero moments at step 0 where the optimizer has not made an update yet."""
    inner = distributed.optimizer
    if len(inner.state) > 0:
        return
    distributed.init_state_fn(inner, distributed.config)
    if isinstance(inner, torch.optim.Adam):  # AdamW is a subclass
        for values in inner.state.values():
            values["step"] = torch.tensor(0.0)


def _like(shard: Any, kind: str, data: Tensor) -> Any:
    """The model's shard (or the factory of its shards) with the optimizer's numbers in it."""
    changed = {"key": f"optimizer.state.{kind}.{shard.key}", "data": data}
    if not isinstance(shard, ShardedTensorFactory):
        changed["dtype"] = data.dtype
    return replace(shard, **changed)


def _parameters(distributed: Any, loading: bool) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each parameter with its whole flat state, float32, in the order in which Megatron loads them.

    Only data-parallel rank 0 writes, so only there the state has values; the others get tensors without memory. A rank
    that is alone in its group has all of it already: the tensors are then the optimizer's own.
    """
    on_rank0 = dist.get_rank(distributed.data_parallel_group) == 0
    if not loading and dist.get_world_size(distributed.data_parallel_group) == 1:
        for buffer in distributed.buffers:
            for parameter in buffer.param_index_map:
                own = distributed._get_main_param_and_optimizer_states(parameter)
                yield parameter, {kind: own[kind].detach().float() for kind in _KINDS}
        return
    for index, buffer in enumerate(distributed.buffers):
        device = "cpu" if loading or on_rank0 else "meta"
        whole = {kind: torch.zeros(buffer.numel, device=device) for kind in _KINDS}
        if not loading:
            (ranges,) = distributed.gbuf_ranges[index].values()  # one type of parameters a buffer
            for bucket, bucket_ranges in zip(buffer.buckets, ranges, strict=True):
                _gather(distributed, bucket, bucket_ranges["param_map"], whole, on_rank0)
        for parameter, (start, stop, _) in buffer.param_index_map.items():
            yield parameter, {kind: values[start:stop] for kind, values in whole.items()}


def _gather(distributed: Any, bucket: Any, ranges: dict[Tensor, Any], whole: dict[str, Tensor], on_rank0: bool) -> None:
    """One bucket's state from all data-parallel ranks, each of which holds an equal part, to rank 0's `whole`."""
    group = distributed.data_parallel_group
    size, ranks = bucket.grad_data.numel(), dist.get_world_size(group)
    device = bucket.grad_data.device
    for kind in _KINDS:
        mine = torch.zeros(size // ranks, device=device)
        for parameter, where in ranges.items():
            local = where["gbuf_local"]
            mine[local.start : local.end] = distributed._get_main_param_and_optimizer_states(parameter)[kind].float()
        place = whole[kind][bucket.offset : bucket.offset + size]
        parts = list(place.to(device).chunk(ranks)) if on_rank0 else None  # on CPU they are the place itself
        dist.gather(mine, parts, dst=dist.get_global_rank(group, 0), group=group)
        if parts is not None and device.type != "cpu":
            place.copy_(torch.cat(parts))
