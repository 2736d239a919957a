"""Megatron's distributed optimizer into and out of a checkpoint that any layout can load.

The state has the form that Megatron calls `fully_reshardable`: the float32 parameters and Adam's two moments in the
shapes of the model's parameters. Each parameter has an owner among the data-parallel ranks (`owners`), which alone
writes it and reads it back. In Megatron's own way every rank holds the whole state, or data-parallel rank 0 does and
writes it, and every rank reads all of it. Some more goes wrong there in Megatron-Core 0.16.1, and is put right here:

- Its gathered buffer leaves out the padding between buckets, and then cuts parameters out of it at places that count
  this padding: behind the first bucket that is padded, parameters and moments are saved shifted. Parameters whose
  sizes are multiples of 128 never show it.
- Before the first update torch's AdamW, which Megatron takes where there is no fused Adam, has no state; saving and
  loading both need one.
- AdamW keeps `step` beside the moments of each parameter, where loading looks it up among the loaded tensors and ends
  in KeyError 'step'.
- Loading leaves one `step` tensor shared by all parameters, so that each update would count once for each parameter.
- The optimizer that works on the host (`optim.offload`) has no state before its first update either, and no function to
  make one; and its groups name classes, which no reader of checkpoints should import.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory, is_main_replica
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from torch import Tensor

_KINDS = ("param", "exp_avg", "exp_avg_sq")
_PROGRESS = ("params", "step")  # of a parameter group; all else of it are settings


def owners(optimizer: Any) -> dict[Tensor, int]:
    """The data-parallel rank that writes each parameter, and reads its state: about as many elements for each.

    The same on all ranks of a group, in whatever order they save or load.
    """
    distributed = _distributed(optimizer)
    parameters = [parameter for buffer in distributed.buffers for parameter in buffer.param_index_map]
    taken = [0] * dist.get_world_size(distributed.data_parallel_group)
    found = {}
    for parameter in sorted(parameters, key=lambda parameter: -parameter.numel()):
        owner = taken.index(min(taken))
        found[parameter] = owner
        taken[owner] += parameter.numel()
    return found


def share_weights(optimizer: Any, model_state: dict[str, Any]) -> None:
    """Lets the owner of each parameter write its weight as well, where Megatron would take data-parallel rank 0.

    Args:
        optimizer: as for `sharded_state`.
        model_state: sharded state dict of the unwrapped model, to be saved; changed.
    """
    rank, ranks = _place(_distributed(optimizer))
    owner_of = owners(optimizer)
    for shard in _shards(model_state):
        shard.replica_id = _replica(shard, owner_of[shard.data], rank, ranks)


def sharded_state(optimizer: Any, model_state: dict[str, Any], loading: bool) -> dict[str, Any]:
    """The optimizer's sharded state dict. Collective over data-parallel ranks unless `loading`.

    Args:
        optimizer: from `get_megatron_optimizer`, with the distributed optimizer.
        model_state: sharded state dict of the unwrapped model; its tensors tell the optimizer's how they are cut.
        loading: the state is a template to load into, of the parameters that this rank owns.
    """
    distributed = _distributed(optimizer)
    _allocate(distributed)
    shard_of, owner_of = {shard.data: shard for shard in _shards(model_state)}, owners(optimizer)
    rank, ranks = _place(distributed)
    replicas = {parameter: _replica(shard_of[parameter], owner, rank, ranks) for parameter, owner in owner_of.items()}
    if loading:
        wanted = {parameter for parameter, owner in owner_of.items() if owner == rank}
        states = ((parameter, _empty(parameter, "cpu")) for parameter in owner_of if parameter in wanted)
    else:
        wanted = {parameter for parameter, replica in replicas.items() if is_main_replica(replica)}
        states = _gathered(distributed, wanted)
    index_of = {parameter: index for index, parameter in enumerate(_in_order(distributed))}
    tensors = {}
    for parameter, full in states:
        shard = shard_of[parameter]
        tensors[index_of[parameter]] = {
            kind: _like(shard, kind, full[kind].view(parameter.shape), replicas[parameter]) for kind in _KINDS
        }
    state = distributed.state_dict()
    for group in state["optimizer"]["param_groups"]:
        for name in [name for name, value in group.items() if isinstance(value, type)]:
            del group[name]
    return {**state, "param_state": tensors}


def load_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Takes over a loaded state dict: step, float32 parameters and moments. Collective over data-parallel ranks.

    Hyper-parameters (rates, decay, betas, eps) stay those of this optimizer: the present settings decide them.
    """
    distributed = _distributed(optimizer)
    state = dict(state)
    tensors = state.pop("param_state", {})  # a rank may own nothing
    groups = distributed.optimizer.param_groups
    settings = [{key: value for key, value in group.items() if key not in _PROGRESS} for group in groups]
    distributed.load_state_dict(state)
    for group, values in zip(distributed.optimizer.param_groups, settings, strict=True):
        group.update(values)
    per_parameter = distributed.optimizer.state
    steps = {parameter: values.pop("step") for parameter, values in per_parameter.items() if "step" in values}
    _scatter(distributed, owners(optimizer), tensors)
    for parameter, step in steps.items():
        per_parameter[parameter]["step"] = step.clone()
    if isinstance(distributed.optimizer, HybridDeviceOptimizer):
        distributed.optimizer._sync_hdo_state_to_sub_optimizers()
        distributed.optimizer._sync_sub_optimizers_state_to_hdo()  # which names its own parameters as "master_param"


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
    if isinstance(inner, HybridDeviceOptimizer):
        for part in inner.sub_optimizers:
            for group in part.param_groups:
                for parameter in group["params"]:
                    moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
                    part.state[parameter] = {"step": torch.tensor(0.0), **moments}
        inner._sync_sub_optimizers_state_to_hdo()
        return
    distributed.init_state_fn(inner, distributed.config)
    if isinstance(inner, torch.optim.Adam):  # AdamW is a subclass
        for values in inner.state.values():
            values["step"] = torch.tensor(0.0)


def _place(distributed: Any) -> tuple[int, int]:
    """(rank, ranks) of the data-parallel group."""
    return dist.get_rank(distributed.data_parallel_group), dist.get_world_size(distributed.data_parallel_group)


def _shards(model_state: dict[str, Any]) -> Iterator[Any]:
    """The shard of each parameter, or the factory of its shards."""
    return nested_values(extract_sharded_tensors_and_factories(model_state)[0])


def _replica(shard: Any, owner: int, rank: int, ranks: int) -> tuple[int, ...]:
    """The shard's replica number, whose last part is 0 on the owner; Megatron writes what is 0 in all its parts."""
    assert isinstance(shard.replica_id, tuple)
    return (*shard.replica_id[:-1], (rank - owner) % ranks)


def _like(shard: Any, kind: str, data: Tensor, replica: tuple[int, ...]) -> Any:
    """The model's shard (or the factory of its shards) with the optimizer's numbers in it."""
    changed = {"key": f"optimizer.state.{kind}.{shard.key}", "data": data, "replica_id": replica}
    if not isinstance(shard, ShardedTensorFactory):
        changed["dtype"] = data.dtype
    return replace(shard, **changed)


def _in_order(distributed: Any) -> Iterator[Tensor]:
    """The parameters in the order in which Megatron numbers their states."""
    for buffer in distributed.buffers:
        yield from buffer.param_index_map


def _empty(parameter: Tensor, device: str) -> dict[str, Tensor]:
    return {kind: torch.empty(parameter.numel(), device=device) for kind in _KINDS}


def _gathered(distributed: Any, wanted: set[Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each parameter with its whole flat state, float32 on the CPU where this rank writes it, elsewhere tensors without
    memory. A rank that is alone in its group has all of it already: the tensors are then the optimizer's own.
    """
    _, ranks = _place(distributed)
    if ranks == 1:
        for parameter in _in_order(distributed):
            own = distributed._get_main_param_and_optimizer_states(parameter)
            yield parameter, {kind: own[kind].detach().float() for kind in _KINDS}
        return
    for index, buffer in enumerate(distributed.buffers):
        (ranges,) = distributed.gbuf_ranges[index].values()  # one type of parameters a buffer
        for number, (bucket, bucket_ranges) in enumerate(zip(buffer.buckets, ranges, strict=True)):
            here = {p: where for p, where in buffer.param_index_map.items() if where[2] == number}
            states = {p: _empty(p, "cpu" if p in wanted else "meta") for p in here}
            for kind in _KINDS:
                whole = _all_gather(distributed, bucket, bucket_ranges["param_map"], kind)
                for parameter, (start, stop, _) in here.items():
                    states[parameter][kind].copy_(whole[start - bucket.offset : stop - bucket.offset])
            yield from states.items()


@torch.no_grad()
def _all_gather(distributed: Any, bucket: Any, ranges: dict[Tensor, Any], kind: str) -> Tensor:
    """One kind of one bucket's state, of which each data-parallel rank holds an equal part; flat, float32."""
    size, device = bucket.grad_data.numel(), bucket.grad_data.device
    whole, mine = torch.empty(size, device=device), torch.zeros(size // _place(distributed)[1], device=device)
    for parameter, where in ranges.items():
        local = where["gbuf_local"]
        mine[local.start : local.end] = distributed._get_main_param_and_optimizer_states(parameter)[kind].float()
    dist.all_gather_into_tensor(whole, mine, group=distributed.data_parallel_group)
    return whole


@torch.no_grad()
def _scatter(distributed: Any, owner_of: dict[Tensor, int], tensors: dict[int, dict[str, Tensor]]) -> None:
    """Each rank takes its range of every parameter's state from the parameter's owner, which has read it."""
    group = distributed.data_parallel_group
    rank, ranks = _place(distributed)
    device = distributed.buffers[0].grad_data.device
    place = "cpu" if isinstance(distributed.optimizer, HybridDeviceOptimizer) else device  # where the state is kept
    ranges = {
        parameter: where["param"]
        for of_buffer in distributed.gbuf_ranges
        for of_type in of_buffer.values()
        for of_bucket in of_type
        for parameter, where in of_bucket["param_map"].items()
    }
    for index, parameter in enumerate(_in_order(distributed)):
        owner, mine = owner_of[parameter], ranges.get(parameter)
        found = {}
        for kind in _KINDS:
            if owner == rank:
                whole = tensors[index][kind].flatten().to(device)
            else:
                whole = torch.empty(parameter.numel(), device=device)
            if ranks > 1:
                dist.broadcast(whole, src=dist.get_global_rank(group, owner), group=group)
            if mine is not None:
                # A cutting would keep all of it in memory.
                found[kind] = whole[mine.start : mine.end].to(place, copy=True)
        if mine is not None:
            distributed._set_main_param_and_optimizer_states(parameter, found)
