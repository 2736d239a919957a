"""Refit between CUDA devices with vLLM's own engines: NCCL for a server on its own GPUs, CUDA IPC for a colocated one.

Both load a weight into the model as it arrives, so unlike the CPU engine they cannot fall back to the old weights once
one has: after such a refit the server stays paused until it is refitted or restarted. An update is announced first, and
the engine (cuda_engines.py) refuses what is not a whole update before anything is sent.
"""

from __future__ import annotations

import base64
import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import msgspec
import torch

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.connection import Connection, RolloutError
from alphamed_nemo.rollout.update_manifest import Manifest, dtype_name

Batch = list[tuple[str, torch.Tensor]]

BATCH_BYTES = 2**30  # one update call; the worker holds no more than this besides the model


def cuda_sender(
    transfer: str, connection: Connection, cfg: RolloutConfig, manifest: Manifest
) -> NcclSender | IpcSender:
    """The carrier of that name.

    Raises:
        ValueError: it cannot work with this server.
    """
    if transfer == "nccl":
        return NcclSender(connection, manifest)
    if cfg.world_size != 1:
        raise ValueError(
            f"rollout.transfer: ipc with rollout.tensor={cfg.tensor} and rollout.engines={cfg.engines}; the full "
            "weights are on the trainer's rank 0 alone, and an IPC handle opens on the GPU that made it. Use 1 of "
            "each, or nccl on GPUs of their own"
        )
    return IpcSender(connection, manifest)


def batches(weights: Iterator[tuple[str, torch.Tensor]], batch_bytes: int) -> Iterator[Batch]:
    """Group weights, contiguous and on the device, into batches of at most `batch_bytes` (one larger tensor alone)."""
    batch: Batch = []
    size = 0
    for name, tensor in weights:
        nbytes = tensor.numel() * tensor.element_size()
        if batch and size + nbytes > batch_bytes:
            yield batch
            batch, size = [], 0
        batch.append((name, tensor.detach().to("cuda" if torch.cuda.is_available() else "cpu").contiguous()))
        size += nbytes
    if batch:
        yield batch


def update_info(batch: Batch) -> dict:
    """What both of vLLM's engines want to know of a batch: names, dtypes (as torch spells them) and shapes."""
    return {
        "names": [name for name, _ in batch],
        "dtype_names": [dtype_name(tensor) for _, tensor in batch],
        "shapes": [list(tensor.shape) for _, tensor in batch],
    }


def nccl_init_info(address: str, port: int, workers: int) -> dict:
    """The workers' side of the rendezvous: this trainer is rank 0 and the workers follow. Tensors travel one by one,
    as `update_info` lists them (vllm/distributed/weight_transfer/nccl_engine.py, 0.32)."""
    return {
        "master_address": address,
        "master_port": port,
        "rank_offset": 1,
        "world_size": workers + 1,
        "packed": False,
    }


class _WorldSize(msgspec.Struct):
    world_size: int


class NcclSender:
    """Broadcasts each weight from the trainer's rank 0 to all workers of the server. One group for the whole run."""

    def __init__(self, connection: Connection, manifest: Manifest) -> None:
        self.connection, self.manifest = connection, manifest
        self.partial = False
        self.group = None  # vLLM's PyNcclCommunicator

    def open(self) -> None:
        if self.group is not None:
            return
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        waiting_for = "the server's number of workers"
        workers = self.connection.call("GET", "/get_world_size", waiting_for, answer=_WorldSize).world_size
        info = nccl_init_info(address_towards(self.connection.url), _free_port(), workers)
        # The workers wait inside the request for rank 0 to join, so it runs beside the joining.
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(
                self.connection.call,
                "POST",
                "/init_weight_transfer_engine",
                f"{workers} workers to join an NCCL group at {info['master_address']}:{info['master_port']}",
                retry=False,
                json={"init_info": info},
            )
            self.group = trainer_init({name: info[name] for name in ("master_address", "master_port", "world_size")})
            joined.result()

    def send(self, weights: Iterator[tuple[str, torch.Tensor]]) -> int:
        assert self.group is not None, "open() comes first"
        total = 0
        _announce(self.connection, self.manifest)
        for batch in batches(weights, BATCH_BYTES):
            self.partial = True
            pool = ThreadPoolExecutor(1)
            received = pool.submit(_update, self.connection, update_info(batch))
            for _, tensor in batch:
                if received.done():
                    received.result()  # the server refused: without a receiver the broadcast would wait for ever
                self.group.broadcast(tensor, src=0, stream=torch.cuda.current_stream())
            received.result()
            pool.shutdown(wait=False)
            torch.cuda.current_stream().synchronize()
            total += sum(tensor.numel() * tensor.element_size() for _, tensor in batch)
        return total

    def abort(self) -> None:
        """The group may hold half a broadcast; the next refit makes a new one."""
        self.group = None
        _end_update(self.connection)

    def close(self) -> None:
        pass  # the group ends with the process


class IpcSender:
    """Hands the worker on the same GPU handles to the trainer's own memory; nothing is copied on the way."""

    def __init__(self, connection: Connection, manifest: Manifest) -> None:
        self.connection, self.manifest = connection, manifest
        self.partial = False
        self.opened = False

    def open(self) -> None:
        if not self.opened:
            info = {"init_info": {"packed": False}}
            path = "/init_weight_transfer_engine"
            self.connection.call("POST", path, "the IPC engine to open", retry=False, json=info)
            self.opened = True

    def send(self, weights: Iterator[tuple[str, torch.Tensor]]) -> int:
        total = 0
        _announce(self.connection, self.manifest, ipc_handles=[])
        for batch in batches(weights, BATCH_BYTES):
            self.partial = True
            info = update_info(batch) | {"ipc_handles_pickled": ipc_handles(batch)}
            torch.cuda.current_stream().synchronize()  # the weights are written before another process reads them
            _update(self.connection, info)  # returns when the worker has loaded them, so the batch may go
            total += sum(tensor.numel() * tensor.element_size() for _, tensor in batch)
        torch.cuda.ipc_collect()
        return total

    def abort(self) -> None:
        self.opened = False
        _end_update(self.connection)

    def close(self) -> None:
        pass


def ipc_handles(batch: Batch) -> str:
    """Base64 of the pickled list of {GPU UUID: arguments that rebuild the tensor}, one entry a tensor."""
    from torch.multiprocessing.reductions import reduce_tensor

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return base64.b64encode(pickle.dumps([{uuid: reduce_tensor(tensor)[1]} for _, tensor in batch])).decode()


def address_towards(url: str) -> str:
    """This host's own address on the route to the server, where the server's workers can reach back. No packet is
    sent."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))
        return probe.getsockname()[0]


def _announce(connection: Connection, manifest: Manifest, **more: list) -> None:
    """Tell the workers what the update will carry; those that expect something else refuse it with an error."""
    listed = [[name, list(shape), dtype] for name, shape, dtype in manifest.listed()]
    info = {"names": [], "dtype_names": [], "shapes": [], "announced": listed, **more}
    waiting_for = f"the engine to agree to an update of {len(listed)} weights"
    connection.call("POST", "/update_weights", waiting_for, retry=False, json={"update_info": info})


def _update(connection: Connection, info: dict) -> None:
    waiting_for = f"the engine to take {len(info['names'])} weights"
    connection.call("POST", "/update_weights", waiting_for, retry=False, json={"update_info": info})


def _end_update(connection: Connection) -> None:
    """End an update without finishing it. In vLLM only one that fails ends so, hence a call without its arguments."""
    try:
        connection.call("POST", "/update_weights", "the end of an update", retry=False, json={"update_info": {}})
    except RolloutError:
        pass  # the answer is an error by design; the one that led here is reported


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
