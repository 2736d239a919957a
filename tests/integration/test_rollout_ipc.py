"""Refit by CUDA IPC from every rank, without CUDA: each GPU's worker finds the full weights of the rank beside it.

Memory that ranks share is a file for each bucket. What frees a bucket overwrites its file, and the servers read as late
as they can: when the trainer waits for them.
"""

from __future__ import annotations

import base64
import math
import pickle
import weakref
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoConfig

from alphamed_nemo.config import ModelConfig, ParallelConfig
from alphamed_nemo.policy.model import build_model
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.everywhere import stream_everywhere
from alphamed_nemo.policy.weights.load import load_hf
from alphamed_nemo.policy.weights.table import hf_shapes
from alphamed_nemo.rollout.carriers import ipc
from alphamed_nemo.rollout.carriers.ipc import IpcSender, Lockstep, share_buckets
from alphamed_nemo.rollout.connection import Connection, RolloutLost
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest
from tests.spawn import spawn
from tests.tiny_hf import write_model

PARALLEL = ParallelConfig(tensor=2, pipeline=2, data=1)
BUCKET_BYTES = 60_000  # of 270,000
NEVER_S = 0.3  # for which a server that reads late waits for what must not happen before it has read


class Server(Connection):
    """One node's: two workers, each on the GPU of one rank."""

    def __init__(self, gpus: list[str], store: dist.Store, dies_at: int) -> None:
        super().__init__("http://127.0.0.1:9", "", 10.0, 0)
        self.gpus, self.store, self.dies_at = gpus, store, dies_at
        self.found: list[dict[str, torch.Tensor]] = [{} for _ in gpus]
        self.announced: dict[str, Any] = {}
        self.buckets = 0

    def call(
        self, method: str, path: str, waiting_for: str, *, retry: bool = True, answer: Any = dict, **request: Any
    ) -> Any:
        info = request["json"].get("update_info")
        if info is not None and info.get("announced"):
            self.announced = info
        elif info:
            self.buckets += 1
            if self.buckets == self.dies_at:
                raise RolloutLost("killed")
            self._read_late(info)
        return msgspec.convert({}, answer)

    def _read_late(self, info: dict[str, Any]) -> None:
        with pytest.raises(RuntimeError, match="Wait timeout"):  # none of the ranks frees it
            self.store.wait([f"freed {self.buckets}"], timedelta(seconds=NEVER_S))
        handles = pickle.loads(base64.b64decode(info["ipc_handles_pickled"]))
        for gpu, found in zip(self.gpus, self.found, strict=True):
            raw = torch.frombuffer(bytearray(Path(handles[gpu][0]).read_bytes()), dtype=torch.uint8)
            pieces = raw.split(info["tensor_sizes"])
            for name, dtype, shape, piece in zip(
                info["names"], info["dtype_names"], info["shapes"], pieces, strict=True
            ):
                assert math.prod(shape) * 4 == len(piece) and name not in found
                found[name] = piece.view(getattr(torch, dtype)).view(shape)


def without_cuda(rank: int, folder: str, store: dist.Store) -> None:
    """A GPU for each rank; memory that is freed is overwritten."""
    from torch.multiprocessing import reductions

    exported = [0]

    def reduce_tensor(flat: torch.Tensor) -> tuple[None, tuple]:
        exported[0] += 1
        file = Path(folder) / f"{rank}-{exported[0]}"
        file.write_bytes(flat.numpy().tobytes())
        weakref.finalize(flat, free, file, exported[0])
        return None, (str(file),)

    def free(file: Path, number: int) -> None:
        file.write_bytes(b"\xff" * file.stat().st_size)
        store.set(f"freed {number}", "")

    torch.cuda.get_device_properties = lambda device: type("Gpu", (), {"uuid": f"GPU-{rank}"})
    torch.cuda.current_device = lambda: rank
    torch.cuda.ipc_collect = lambda: None
    reductions.reduce_tensor = reduce_tensor


def refit(folder: str, model: str, dies_at: Sequence[int]) -> Any:
    """On rank 0 what each worker of two servers has found, elsewhere how many weights this rank gathered.

    Args:
        dies_at: for each server the number of the bucket at which it dies; 0: none.
    """
    initialize(PARALLEL)
    rank = dist.get_rank()
    store = dist.FileStore(f"{folder}/freed", -1)
    without_cuda(rank, folder, store)
    ipc.BUCKET_BYTES = BUCKET_BYTES
    config = AutoConfig.from_pretrained(model)
    chunks = build_model(config, ModelConfig(path=model, dtype="float32"), PARALLEL)
    load_hf(chunks, config, model)
    lockstep, count = Lockstep(dist.new_group(backend="gloo")), 0

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal count
        for pair in stream_everywhere(chunks, config, bucket_bytes=25_000):
            count += 1
            yield pair

    weights = counted()
    if rank != 0:
        share_buckets(weights, lockstep)
        for _ in weights:
            pass
        return count
    gpus = (["GPU-0", "GPU-1"], ["GPU-2", "GPU-3"])
    servers = [Server(*each) for each in zip(gpus, (store, store), dies_at, strict=True)]
    sender = IpcSender(Manifest(hf_shapes(config), "float32"), lockstep)
    sender.open(Receivers(servers))
    problem = ""
    try:
        sender.send(weights)
    except RolloutLost as error:
        problem = str(error)
    lockstep.ask(False)
    for _ in weights:
        pass
    return problem, [server.found for server in servers], [server.announced.get("gpus") for server in servers]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "qwen2"))


def test_every_gpus_worker_gets_all_weights_from_the_rank_beside_it(model, tmp_path):
    (problem, found, gpus), *counts = spawn(refit, 4, str(tmp_path), model, (0, 0))
    stored = load_file(f"{model}/model.safetensors")
    assert problem == "" and counts == [len(stored)] * 3
    assert gpus == [["GPU-0", "GPU-1", "GPU-2", "GPU-3"]] * 2
    for worker in found[0] + found[1]:
        assert worker.keys() == stored.keys()
        assert all(torch.equal(worker[name], tensor) for name, tensor in stored.items())


def test_a_server_that_is_lost_costs_the_others_nothing(model, tmp_path):
    (problem, found, _), *counts = spawn(refit, 4, str(tmp_path), model, (0, 2))
    stored = load_file(f"{model}/model.safetensors")
    assert problem == "" and counts == [len(stored)] * 3
    for worker in found[0]:
        assert all(torch.equal(worker[name], tensor) for name, tensor in stored.items())
    assert all(len(worker) < len(stored) for worker in found[1])


def test_where_all_servers_are_lost_every_rank_comes_to_the_end(model, tmp_path):
    (problem, _, _), *counts = spawn(refit, 4, str(tmp_path), model, (2, 2))
    assert "killed" in problem
    assert counts == [len(load_file(f"{model}/model.safetensors"))] * 3
