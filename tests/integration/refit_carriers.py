"""What the engines behind the CUDA carriers make of whole and of broken updates, without CUDA: as JSON.

    python -m tests.integration.refit_carriers FOLDER OUTPUT

The senders, vLLM's engines and a served model are the real ones, in one process. Only what moves the bytes is replaced:
NCCL's broadcast by a queue, CUDA's memory handles by the tensors themselves.
"""

from __future__ import annotations

import json
import os
import queue
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from alphamed_nemo.rollout.carriers import cuda as cuda_transfer
from alphamed_nemo.rollout.carriers.cuda import IpcSender, NcclSender
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.refit import WeightTransfer
from tests.integration.refit_models import Weights, apart, as_the_server, expected, moved, served, start, write_model

BROKEN_AT = "model.layers.1.self_attn.k_proj.weight"  # in the middle of a layer that vLLM keeps in one matrix


def join(sender: NcclSender, engine: Any) -> None:
    """A new group of the two, where the sender has none."""
    if sender.group is not None:
        return
    under_way: queue.Queue[torch.Tensor] = queue.Queue()
    sender.group = SimpleNamespace(broadcast=lambda tensor, src, stream: under_way.put(tensor))
    engine.model_update_group = SimpleNamespace(
        broadcast=lambda tensor, src, stream: tensor.copy_(under_way.get(timeout=10)), destroy=lambda: None
    )


def without_cuda() -> None:
    """CUDA's stream, device and memory handles, on the CPU."""
    from torch.multiprocessing import reductions
    from vllm.distributed.weight_transfer import ipc_engine

    shared: list[torch.Tensor] = []

    def reduce_tensor(tensor: torch.Tensor) -> tuple[None, tuple]:
        shared.append(tensor)
        return None, (len(shared) - 1, *[None] * 6)

    torch.cuda.current_stream = lambda: SimpleNamespace(synchronize=lambda: None)
    torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid="one")
    torch.cuda.current_device = lambda: 0
    torch.cuda.ipc_collect = lambda: None
    reductions.reduce_tensor = reduce_tensor
    ipc_engine.rebuild_cuda_tensor = lambda index, *rest: shared[index]
    cuda_transfer.BATCH_BYTES = 1  # a call for each weight, as large models need several
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"


def carry_by(carrier: str, llm: Any, transfer: WeightTransfer) -> None:
    """Puts the carrier's sender and engine in the place of shared memory's."""
    from alphamed_nemo.rollout.inside_vllm.cuda_engines import IpcEngine, NcclEngine

    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    old = worker.weight_transfer_engine
    engine = {"nccl": NcclEngine, "ipc": IpcEngine}[carrier](old.config, old.vllm_config, old.device, old.model)
    worker.weight_transfer_engine = engine
    transfer.sender = {"nccl": NcclSender, "ipc": IpcSender}[carrier](transfer.connection, transfer.manifest)
    if carrier == "nccl":
        join(transfer.sender, engine)
        transfer.sender.open = lambda: join(transfer.sender, engine)


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
    at_start, connection, whole = served(llm), transfer.connection, transfer.manifest
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
    transfer.sender.open()
    transfer.connection.call("POST", "/start_weight_update", "")
    try:
        transfer.sender.send(iter(weights))
        transfer.connection.call("POST", "/finish_weight_update", "", json={"weight_version": "99"})
    except RolloutError as error:
        transfer.sender.abort()
        return str(error)
    return ""


def refused_to_finish(transfer: WeightTransfer) -> str:
    """What the engine says of an update that carries nothing."""
    transfer.connection.call("POST", "/start_weight_update", "")
    try:
        transfer.connection.call("POST", "/finish_weight_update", "", json={"weight_version": "99"})
    except RolloutError as error:
        transfer.sender.abort()
        return str(error)
    return ""


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    as_the_server("tests.integration.refit_carriers", folder)
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    without_cuda()
    found = {}
    for carrier in ("nccl", "ipc"):
        found[carrier] = run(folder / carrier, carrier)
        cleanup_dist_env_and_memory()
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
