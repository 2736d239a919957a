"""Refit by CUDA IPC, for rollout servers on the trainer's own GPUs: each worker reads the memory of the rank beside it.

Every rank gathers the same buckets of full tensors for itself and exports them; rank 0 merges the handles by the UUID
of the GPU and passes them to the servers, whose workers open the one of their own GPU. While they load a bucket the
ranks gather the next. A rank keeps a bucket until rank 0 says that it is loaded, by asking for the one after the next.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from alphamed_nemo.rollout.carriers.buckets import Bucket, buckets
from alphamed_nemo.rollout.carriers.refit_group import in_background
from alphamed_nemo.rollout.carriers.sender import Weights
from alphamed_nemo.rollout.carriers.updates import announcement, end_update, update
from alphamed_nemo.rollout.connection import Connection
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest

BUCKET_BYTES = 2**29  # of each of two on a GPU that the model and the engine's copy of it share

Handles = dict[str, tuple]  # GPU UUID → arguments that rebuild the tensor in another process


class Lockstep:
    """The ranks that share their buckets, over a gloo group of all of them: rank 0 asks for each bucket, and for none.

    Args:
        group: None where rank 0 is alone.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group

    def ask(self, more: bool) -> None:
        """Rank 0: for another bucket; False: no more, and what was shared may go. Ends each refit, failed ones too."""
        self._word(more)

    def is_asked(self) -> bool:
        """The other ranks: what rank 0 asks."""
        return self._word(False)

    def merge(self, handles: Handles) -> Handles:
        """Those of all ranks, on rank 0."""
        if self.group is None:
            return handles
        gathered: list[Any] = [None] * dist.get_world_size(self.group)
        dist.gather_object(handles, gathered if dist.get_rank(self.group) == 0 else None, group=self.group, group_dst=0)
        return {uuid: handle for theirs in gathered if theirs is not None for uuid, handle in theirs.items()}

    def _word(self, more: bool) -> bool:
        word = torch.tensor([int(more)])
        if self.group is not None:
            dist.broadcast(word, group=self.group, group_src=0)
        return bool(word.item())


class Shared:
    """A rank's exported buckets: the newest two, which the workers may be reading."""

    def __init__(self) -> None:
        self.alive: list[torch.Tensor] = []

    def export(self, bucket: Bucket) -> Handles:
        """Frees the bucket before the last, and shares this one."""
        self.alive = self.alive[-1:]
        self.alive.append(bucket.packed())
        return ipc_handles(self.alive[-1])

    def free(self) -> None:
        self.alive = []
        torch.cuda.ipc_collect()


def share_buckets(weights: Weights, lockstep: Lockstep) -> None:
    """What every other rank does while rank 0 sends.

    Args:
        weights: the same, in the same order, as rank 0 sends.
    """
    shared, own = Shared(), buckets(weights, BUCKET_BYTES)
    while lockstep.is_asked():
        if (bucket := next(own, None)) is not None:
            lockstep.merge(shared.export(bucket))
    shared.free()


class IpcSender:
    """Hands the workers handles to buckets in the ranks' memory; no byte leaves a GPU.

    Whoever calls `refit` ends it by `lockstep.ask(False)`.
    """

    def __init__(self, manifest: Manifest, lockstep: Lockstep) -> None:
        self.manifest, self.lockstep = manifest, lockstep
        self.receivers = Receivers([])
        self.partial = False

    def open(self, receivers: Receivers) -> None:
        self.receivers = receivers
        info = {"init_info": {"packed": True}}
        path = "/init_weight_transfer_engine"
        receivers.call("POST", path, "the IPC engine to open", retry=False, json=info)

    def send(self, weights: Weights) -> int:
        total, shared = 0, Shared()
        loading: Future[None] | None = None
        try:
            for bucket, handles in self._exported(weights, shared):
                if loading is None:
                    update(self.receivers, announcement(self.manifest, ipc_handles=[], gpus=list(handles)))
                else:
                    loading.result()
                self.partial = True
                info = bucket.info() | {"tensor_sizes": bucket.sizes, "ipc_handles_pickled": pickled(handles)}
                loading = in_background(partial(update, self.receivers, info))
                total += sum(bucket.sizes)
            if loading is None:
                update(self.receivers, announcement(self.manifest, ipc_handles=[]))
            else:
                loading.result()
        finally:
            if loading is not None:
                wait([loading])  # nothing else is asked of a server, nor is memory freed, while it loads
        shared.free()
        return total

    def abort(self, connection: Connection) -> None:
        end_update(connection)

    def close(self) -> None:
        pass

    def _exported(self, weights: Weights, shared: Shared) -> Iterator[tuple[Bucket, Handles]]:
        """Buckets, with the handles of all ranks; each is asked for once the one before the last is loaded."""
        own = buckets(weights, BUCKET_BYTES)
        while True:
            self.lockstep.ask(True)
            if (bucket := next(own, None)) is None:
                return
            yield bucket, self.lockstep.merge(shared.export(bucket))


def ipc_handles(flat: torch.Tensor) -> Handles:
    """How the worker on this GPU opens the tensor."""
    from torch.multiprocessing.reductions import reduce_tensor

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return {uuid: reduce_tensor(flat)[1]}


def pickled(handles: Handles) -> str:
    """As vLLM's engine takes them over HTTP."""
    return base64.b64encode(pickle.dumps(handles)).decode()
