"""vLLM's side of a refit between CUDA devices: its own NCCL and IPC engines, which take whole updates only.

Both load a weight into the model as it arrives. So an update is announced before anything of it is sent, and refused
there with the old weights untouched; what arrives is held against the announcement, and an update of which something
is missing is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo

from alphamed_nemo.rollout.inside_vllm.reload import forget, process_shared, untouched_layers
from alphamed_nemo.rollout.update_manifest import Arrivals, Manifest, check_manifest, read_manifest


@dataclass
class NcclUpdateInfo(NCCLWeightTransferUpdateInfo):
    """A part of an update, or its announcement: (name, shape, dtype) of every weight."""

    announced: list[list] | None = None


@dataclass
class IpcUpdateInfo(IPCWeightTransferUpdateInfo):
    """The same for IPC."""

    announced: list[list] | None = None


class _Whole:
    """In front of one of vLLM's engines: lets a whole update through, announced first, and nothing else."""

    supports_draft_weight_update = False
    model: Any
    model_config: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.manifest = read_manifest(self.model_config.model)
        self.arrivals: Arrivals | None = None  # of the update under way, once it is announced

    def start_weight_update(self) -> None:
        """The model is not touched before the announcement."""
        forget(self.model)
        self.arrivals = None

    def receive_weights(self, update_info: Any) -> None:
        assert isinstance(update_info, NcclUpdateInfo | IpcUpdateInfo)  # made by `update_info_cls`
        if update_info.announced is not None:
            self._announce([(name, tuple(shape), dtype) for name, shape, dtype in update_info.announced])
            return
        if self.arrivals is None:
            raise RuntimeError("weights of an update that was not announced; the old weights serve on")
        for found in zip(update_info.names, map(tuple, update_info.shapes), update_info.dtype_names, strict=True):
            self.arrivals.take(*found)
        self._vllm().receive_weights(update_info)

    def finish_weight_update(self) -> None:
        if self.arrivals is None:
            raise RuntimeError("finish_weight_update before an update: the weights have not changed")
        self.arrivals.finish()
        untouched = untouched_layers(self.model)
        self._vllm().finish_weight_update()
        process_shared(self.model, untouched)
        self.arrivals = None

    def _vllm(self) -> Any:
        """vLLM's engine, which comes after this class in those below."""
        return super()

    def _announce(self, found: list[tuple[str, tuple[int, ...], str]]) -> None:
        check_manifest(self.manifest, found)
        self._vllm().start_weight_update()
        self.arrivals = Arrivals(Manifest({name: shape for name, shape, _ in found}, found[0][2]))


class NcclEngine(_Whole, NCCLWeightTransferEngine):
    """For a server on its own GPUs."""

    update_info_cls = NcclUpdateInfo


class IpcEngine(_Whole, IPCWeightTransferEngine):
    """For a server on the trainer's GPU."""

    update_info_cls = IpcUpdateInfo
