"""vLLM's side of a refit over gloo, for CPU hosts other than the trainer's. Runs in the vLLM worker.

The same group, ranks and order as those of vLLM's NCCL engine, so that what differs on GPUs is the transport alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from alphamed_nemo.processor import give_back_freed_memory
from alphamed_nemo.rollout.carriers.broadcast import address_towards
from alphamed_nemo.rollout.carriers.gloo import GlooGroup
from alphamed_nemo.rollout.carriers.refit_group import GROUP_ENDED
from alphamed_nemo.rollout.inside_vllm.whole_updates import Part, WholeUpdates


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where rank 0 listens, this server's first rank, the number of ranks, and the limit of each wait."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    limit_s: float


class _Gloo(WeightTransferEngine[GlooInitInfo, Part]):
    """Receives buckets and loads each."""

    group: GlooGroup | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        self.shutdown()
        parallel = self.parallel_config
        own = parallel.data_parallel_index * parallel.world_size + parallel.rank
        address, port = init_info.master_address, init_info.master_port
        own_address = address_towards([f"http://{address}:{port}"])
        rank = init_info.rank_offset + own
        try:
            self.group = GlooGroup(address, port, rank, init_info.world_size, init_info.limit_s, own_address)
        except RuntimeError as error:
            raise RuntimeError(f"{GROUP_ENDED}: {error}") from error

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Part) -> None:
        dtypes = [getattr(torch, name) for name in update_info.dtype_names]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(update_info.shapes, dtypes, strict=True)]
        bucket = torch.empty(sum(sizes), dtype=torch.uint8)
        assert self.group is not None, "an announcement without a group is refused"
        try:
            self.group.broadcast(bucket)
        except RuntimeError as error:
            self.shutdown()
            raise RuntimeError(f"{GROUP_ENDED}: {error}") from error
        # Rounded first, as in a server that was started with these weights: reload.py.
        weights = unpack_tensor(bucket, update_info.names, update_info.shapes, dtypes, sizes)
        assert callable(self.model.load_weights), f"{type(self.model).__name__} is not a model of vLLM's"
        self.model.load_weights((name, tensor.to(self.model_config.dtype)) for name, tensor in weights)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        give_back_freed_memory()

    def shutdown(self) -> None:
        group, self.group = self.group, None
        if group is not None:
            group.destroy()


class GlooEngine(WholeUpdates, _Gloo):
    """For a server on another host than the trainer's rank 0."""

    init_info_cls = GlooInitInfo
    update_info_cls = Part

    def expect_update(self, announcement: Part) -> None:
        if self.group is None:
            raise RuntimeError(f"{GROUP_ENDED}: there is none")
