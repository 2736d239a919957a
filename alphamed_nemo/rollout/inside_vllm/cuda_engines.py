"""vLLM's side of a refit between CUDA devices: its own NCCL and IPC engines, which take whole updates only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo

from alphamed_nemo.rollout.carriers.refit_group import GROUP_ENDED, limited
from alphamed_nemo.rollout.inside_vllm.whole_updates import Part, WholeUpdates


@dataclass(kw_only=True)
class NcclInitInfo(NCCLWeightTransferInitInfo):
    """vLLM's, and the limit of each wait for the other members."""

    limit_s: float


class _Nccl(NCCLWeightTransferEngine):
    """vLLM's engine, that waits for no member that is gone."""

    limit_s: float

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        assert isinstance(init_info, NcclInitInfo)  # made by `init_info_cls`
        self.shutdown()  # vLLM would leave the group of before to its own
        self.limit_s = init_info.limit_s
        super().init_transfer_engine(init_info)
        assert self.model_update_group is not None
        if self.model_update_group.disabled:  # vLLM would load what its buffers happen to hold
            self.shutdown()
            raise RuntimeError("vLLM has no NCCL: VLLM_DISABLE_PYNCCL is set, or libnccl does not load")

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        assert self.model_update_group is not None, "an announcement without a group is refused"
        try:
            with limited(self.model_update_group.destroy, self.limit_s):
                super().receive_weights(update_info)
        except BaseException:
            self.shutdown()
            raise


class NcclEngine(WholeUpdates, _Nccl):
    """For a server on its own GPUs."""

    init_info_cls = NcclInitInfo
    update_info_cls = Part

    def expect_update(self, announcement: Part) -> None:
        if self.model_update_group is None:
            raise RuntimeError(f"{GROUP_ENDED}: there is none")


@dataclass
class IpcPart(IPCWeightTransferUpdateInfo):
    """A part of an update, or its announcement.

    Attributes:
        announced: (name, shape, dtype) of every weight.
        gpus: UUIDs of those whose memory will be handed out.
    """

    announced: list[list] | None = None
    gpus: list[str] | None = None


class IpcEngine(WholeUpdates, IPCWeightTransferEngine):
    """For a server on the trainer's GPUs."""

    update_info_cls = IpcPart

    def expect_update(self, announcement: IpcPart) -> None:
        own = str(torch.cuda.get_device_properties(self.device.index).uuid)
        if announcement.gpus is not None and own not in announcement.gpus:
            raise RuntimeError(
                f"no rank of the trainer is on GPU {own} of this worker, only on {', '.join(announcement.gpus)}; "
                "colocated rollouts need the trainer's own GPUs"
            )
