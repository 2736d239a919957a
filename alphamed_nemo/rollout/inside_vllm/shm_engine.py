"""vLLM's side of a refit through shared memory, for CPU hosts. Runs in the vLLM worker; loaded by the plugin.

The trainer writes a whole update into one segment and then says where each tensor lies. The worker maps the segment,
compares the update with the key manifest and loads straight from it, so nothing is copied on the way, and a refused or
broken refit leaves the old weights serving.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass, field

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from alphamed_nemo.processor import give_back_freed_memory
from alphamed_nemo.rollout.inside_vllm.reload import load_whole
from alphamed_nemo.rollout.update_manifest import check_manifest, read_manifest

ABORTED = "update given up by the trainer; the old weights serve on"


@dataclass
class SegmentInfo(WeightTransferInitInfo):
    """The segment to open: a file that grows to the size of an update."""

    path: str


@dataclass
class TensorsInfo(WeightTransferUpdateInfo):
    """What lies in the segment: one whole update.

    Attributes:
        tensors: (name, dtype, shape, offset in bytes) of each, contiguous.
        abort: the trainer gives up. An update that fails is the only way in vLLM to end one without finishing it.
    """

    tensors: list[list] = field(default_factory=list)
    abort: bool = False


class SharedMemoryEngine(WeightTransferEngine[SegmentInfo, TensorsInfo]):
    """Checks and loads one update at a time."""

    init_info_cls = SegmentInfo
    update_info_cls = TensorsInfo
    supports_draft_weight_update = False

    def __init__(self, config, vllm_config, device, model) -> None:
        super().__init__(config, vllm_config, device, model)
        self.manifest = read_manifest(self.model_config.model)
        self.descriptor: int | None = None
        self.segment: torch.Tensor | None = None  # bytes; the mapping is kept from one refit to the next
        self.committed = False

    def init_transfer_engine(self, init_info: SegmentInfo) -> None:
        descriptor = os.open(init_info.path, os.O_RDWR)
        if self.descriptor is not None and os.path.sameopenfile(descriptor, self.descriptor):
            os.close(descriptor)
            return
        self.shutdown()
        self.descriptor = descriptor

    def start_weight_update(self) -> None:
        if self.descriptor is None:
            raise RuntimeError("no segment is open; call init_weight_transfer_engine first")
        self.committed = False

    def receive_weights(self, update_info: TensorsInfo) -> None:
        if update_info.abort:
            raise RuntimeError(ABORTED)
        check_manifest(self.manifest, [(name, tuple(shape), dtype) for name, dtype, shape, _ in update_info.tensors])
        load_whole(self.model, self.model_config, self._tensors(update_info.tensors))
        self.committed = True

    def finish_weight_update(self) -> None:
        if not self.committed:
            raise RuntimeError("finish_weight_update before a committed update: the weights have not changed")
        self.committed = False
        give_back_freed_memory()

    def shutdown(self) -> None:
        self.segment, self.committed = None, False
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _tensors(self, tensors: list[list]) -> list[tuple[str, torch.Tensor]]:
        """Views of the segment, checked to lie in it."""
        views = []
        segment = self._mapped()
        for name, dtype_name, shape, start in tensors:
            dtype = getattr(torch, dtype_name)
            end = start + math.prod(shape) * dtype.itemsize
            if end > len(segment):
                raise ValueError(f"{name}: lies at bytes {start} to {end} of a segment of {len(segment)}")
            views.append((name, segment[start:end].view(dtype).view(shape)))
        return views

    def _mapped(self) -> torch.Tensor:
        """The whole segment, mapped anew where it is another one or has grown."""
        assert self.descriptor is not None, "start_weight_update refuses an update without a segment"
        size = os.fstat(self.descriptor).st_size
        if self.segment is None or len(self.segment) != size:
            self.segment = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)
        return self.segment
