"""What the engines behind the carriers that load as they receive make of whole and of broken updates: as JSON.

    python -m tests.integration.refit_carriers FOLDER OUTPUT

The senders, vLLM's engines and a served model are the real ones, in one process, and so is gloo. Of CUDA only what
moves the bytes is replaced: NCCL's communicator by a queue for each rank, and memory handles by weak references to the
tensors themselves.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from alphamed_nemo.rollout.carriers import gloo, ipc, nccl
from alphamed_nemo.rollout.carriers.broadcast import BroadcastSender
from alphamed_nemo.rollout.carriers.gloo import GlooTransport
from alphamed_nemo.rollout.carriers.ipc import IpcSender, Lockstep
from alphamed_nemo.rollout.carriers.nccl import NcclTransport
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.refit import WeightTransfer
from tests.integration.refit_models import Weights, apart, as_the_server, expected, moved, served, start, write_model

BROKEN_AT = "model.layers.1.self_attn.k_proj.weight"  # in the middle of a layer that vLLM keeps in one matrix
BUCKET_BYTES = 60_000  # a call for a few weights, as large models need several; larger ones travel alone
CARRIERS = ("gloo", "nccl", "ipc")


class Communicator:
    """NCCL's by vLLM, of members in one process, who met in vLLM's own store."""

    under_way: dict[tuple[str, int], queue.Queue[torch.Tensor]] = {}
    disabled = False

    def __init__(self, group: Any, device: int) -> None:
        self.rank, self.world_size = group.rank, group.world_size
        self.name = group.broadcast_obj(str(uuid.uuid4()) if self.rank == 0 else None, src=0)
        self.under_way.setdefault((self.name, self.rank), queue.Queue())
        group.barrier()
        self.destroyed = False

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        assert src == 0 and tensor.dtype == torch.uint8 and not self.destroyed
        if self.rank == 0:
            for rank in range(1, self.world_size):
                self.under_way[self.name, rank].put(tensor.clone())
        else:
            sent = self.under_way[self.name, self.rank].get(timeout=60)
            assert sent.shape == tensor.shape, "the two ends cut buckets at different places"
            tensor.copy_(sent)

    def destroy(self) -> None:
        self.destroyed = True


def without_cuda() -> None:
    """CUDA's streams, device and memory handles, and NCCL, on the CPU."""
    from torch.multiprocessing import reductions
    from vllm.distributed.device_communicators import pynccl

    shared: list[weakref.ref[torch.Tensor]] = []

    def reduce_tensor(tensor: torch.Tensor) -> tuple[None, tuple]:
        shared.append(weakref.ref(tensor))
        return None, (len(shared) - 1, *[None] * 6)

    def rebuild_cuda_tensor(index: int, *rest: Any) -> torch.Tensor:
        tensor = shared[index]()
        assert tensor is not None, "the trainer has freed what the engine opens"
        return tensor

    stream = SimpleNamespace(synchronize=lambda: None)
    torch.cuda.Stream = lambda *args, **kwargs: stream
    torch.cuda.stream = lambda stream: nullcontext()
    torch.cuda.current_stream = lambda: stream
    torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid="one")
    torch.cuda.current_device = torch.accelerator.current_device_index = lambda: 0
    torch.cuda.ipc_collect = lambda: None
    reductions.reduce_tensor, reductions.rebuild_cuda_tensor = reduce_tensor, rebuild_cuda_tensor
    pynccl.PyNcclCommunicator = Communicator
    gloo.GlooTransport.bucket_bytes = ipc.BUCKET_BYTES = nccl.NcclTransport.bucket_bytes = BUCKET_BYTES
    nccl.NcclTransport.init_info["packed_buffer_size_bytes"] = BUCKET_BYTES
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"


def carry_by(carrier: str, llm: Any, transfer: WeightTransfer) -> None:
    """Puts the carrier's sender and engine in the place of shared memory's."""
    from alphamed_nemo.rollout.inside_vllm.cuda_engines import IpcEngine, NcclEngine
    from alphamed_nemo.rollout.inside_vllm.gloo_engine import GlooEngine

    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    old, manifest = worker.weight_transfer_engine, transfer.manifest
    engine = {"gloo": GlooEngine, "nccl": NcclEngine, "ipc": IpcEngine}[carrier]
    worker.weight_transfer_engine = engine(old.config, old.vllm_config, old.device, old.model)
    if carrier == "ipc":
        transfer.sender = IpcSender(manifest, Lockstep(None))
    else:
        transfer.sender = BroadcastSender(manifest, GlooTransport() if carrier == "gloo" else NcclTransport(), 30.0)


def broken_updates(weights: Weights) -> dict[str, list[tuple[str, torch.Tensor]]]:
    """Updates that end, or go wrong, in the middle of a layer."""
    whole = list(weights.items())
    names = [name for name, _ in whole]
    at = names.index(BROKEN_AT)
    tensor = weights[BROKEN_AT]
    return {
        "missing": whole[:at],
        "shape": [*whole[:at], (BROKEN_AT, tensor[:-1]), *whole[at + 1 :]],
        "dtype": [*whole[:at], (BROKEN_AT, tensor.double()), *whole[at + 1 :]],
        "duplicate": [*whole[:at], whole[at - 1], *whole[at:]],
        "foreign": [*whole[:at], (BROKEN_AT.replace("k_proj", "kv_proj"), tensor), *whole[at:]],
    }


def refused(transfer: WeightTransfer, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> str:
    try:
        transfer.refit(weights, version)
    except RolloutError as error:
        return str(error)
    return ""


def run(folder: Path, carrier: str) -> dict[str, Any]:
    """Differences of log-probs in nats, and what was said of each update that is none."""
    from transformers import AutoModelForCausalLM

    write_model(folder, "llama", "tied")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    first = {name: parameter.detach().float() for name, parameter in model.named_parameters()}
    llm, transfer = start(folder, "float32")
    carry_by(carrier, llm, transfer)
    at_start, (connection,), whole = served(llm), transfer.connections, transfer.manifest
    found: dict[str, Any] = {"refused": {}, "after": {}}

    # Announced as less, or as something else, than the served folder holds: refused before anything is sent.
    for what, shapes in {
        "one": {BROKEN_AT: whole.shapes[BROKEN_AT]},
        "none": {},
        "turned": {name: shape[::-1] for name, shape in whole.shapes.items()},
    }.items():
        for side in (transfer, transfer.sender):
            side.manifest = replace(whole, shapes=shapes)
        weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
        found["refused"][f"announced {what}"] = refused(transfer, iter(weights.items()), 1)
        found["after"][f"announced {what}"] = apart(served(llm), at_start)
        assert not connection.paused, what
        transfer.manifest = transfer.sender.manifest = whole

    # Broken on the way: the trainer finds it, and what has arrived by then never serves.
    for number, (kind, weights) in enumerate(broken_updates(moved(first, 1)).items(), start=2):
        found["refused"][kind] = refused(transfer, iter(weights), number)
        assert connection.paused and connection.version != str(number), kind
        whole_again = moved(first, number)
        transfer.refit(iter(whole_again.items()), number)
        assert not connection.paused, kind
        found["after"][kind] = apart(served(llm), expected(model, whole_again, "float32"))

    # Sent past the trainer's own check: the engine finds it too.
    for number, (kind, weights) in enumerate(broken_updates(moved(first, 1)).items(), start=20):
        found["refused"][f"{kind}, by the engine"] = sent_unchecked(transfer, weights)
        transfer.refit(iter(first.items()), number)
        found["after"][f"{kind}, by the engine"] = apart(served(llm), at_start)
    found["past the trainer"] = refused_to_finish(transfer)
    transfer.close()
    return found


def sent_unchecked(transfer: WeightTransfer, weights: list[tuple[str, torch.Tensor]]) -> str:
    """What the engine says of an update that the trainer did not compare with the manifest."""
    receivers = Receivers(transfer.connections)
    transfer.sender.open(receivers)
    return refusal_of(transfer, receivers, lambda: transfer.sender.send(iter(weights)))


def refused_to_finish(transfer: WeightTransfer) -> str:
    """What the engine says of an update that carries nothing."""
    return refusal_of(transfer, Receivers(transfer.connections), lambda: None)


def refusal_of(transfer: WeightTransfer, receivers: Receivers, send: Callable[[], object]) -> str:
    """What is said of an update that `send` sends."""
    receivers.call("POST", "/start_weight_update", "")
    try:
        send()
        receivers.call("POST", "/finish_weight_update", "", json={"weight_version": "99"})
    except RolloutError as error:
        with suppress(RolloutError):
            receivers.each(transfer.sender.abort)
        return str(error)
    return ""


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    as_the_server("tests.integration.refit_carriers", folder)
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    without_cuda()
    found = {}
    for carrier in CARRIERS:
        found[carrier] = run(folder / carrier, carrier)
        cleanup_dist_env_and_memory()
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
