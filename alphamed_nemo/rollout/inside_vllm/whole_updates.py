"""Engines that load weights as they arrive, and take whole updates only. Runs in the vLLM worker.

What has been loaded cannot be taken back. So an update is announced before anything of it is sent, and refused there
with the old weights untouched; what arrives is held against the announcement, and an update of which something is
missing is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

from alphamed_nemo.rollout.inside_vllm.reload import forget, process_shared, untouched_layers
from alphamed_nemo.rollout.update_manifest import Arrivals, Manifest, check_manifest, read_manifest


@dataclass
class Part(NCCLWeightTransferUpdateInfo):
    """A part of an update, or its announcement: (name, shape, dtype) of every weight."""

    announced: list[list] | None = None


class WholeUpdates:
    """In front of an engine: lets a whole update through, announced first, and nothing else."""

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
        """Takes a part, of `update_info_cls`, which has an announcement."""
        if update_info.announced is not None:
            self.expect_update(update_info)
            check_manifest(self.manifest, _found(update_info.announced))
            self._engine().start_weight_update()
            shapes = {name: tuple(shape) for name, shape, _ in update_info.announced}
            self.arrivals = Arrivals(Manifest(shapes, update_info.announced[0][2]))
            return
        if self.arrivals is None:
            raise RuntimeError("weights of an update that was not announced; the old weights serve on")
        for found in zip(update_info.names, map(tuple, update_info.shapes), update_info.dtype_names, strict=True):
            self.arrivals.take(*found)
        self._engine().receive_weights(update_info)

    def finish_weight_update(self) -> None:
        if self.arrivals is None:
            raise RuntimeError("finish_weight_update before an update: the weights have not changed")
        self.arrivals.finish()
        untouched = untouched_layers(self.model)
        self._engine().finish_weight_update()
        process_shared(self.model, untouched)
        self.arrivals = None

    def expect_update(self, announcement: Any) -> None:
        """Raises where what was announced could not arrive."""

    def _engine(self) -> Any:
        """The engine that carries the weights, which comes after this class among an engine's bases."""
        return super()


def _found(announced: list[list]) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, tuple(shape), dtype) for name, shape, dtype in announced]
