"""Runs a function in several gloo processes, as torchrun would, and brings its results back.

    from tests.spawn import spawn

    def losses(steps):            # a plain function at the top of a test module
        return [dist.get_rank()] * steps

    assert spawn(losses, 2, 3) == [[0, 0, 0], [1, 1, 1]]

The processes are forked from one helper process that has imported torch and Megatron once, so that a call costs tenths
of a second and not the seconds that these imports take.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# What ranks use, and what the modules of tests import beside it: a rank would spend seconds on what is missing here.
_PRELOAD = [
    "pytest",
    "alphamed_nemo.quick_imports",  # before anything else that imports transformers
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "alphamed_nemo.grpo.worker",
]


def spawn(fn: Callable[..., Any], ranks: int, *args: Any, timeout_s: float = 180.0) -> list[Any]:
    """Calls `fn(*args)` on each of `ranks` processes under torch.distributed (gloo, one thread each).

    Args:
        fn: a function that can be pickled by name: at the top of a module, not nested.
        ranks: the number of processes.
        args: arguments, the same on every rank; pickled.
        timeout_s: seconds until the processes are stopped.

    Returns:
        What each rank returned (pickled, so tensors come back as copies), in the order of ranks.

    Raises:
        RuntimeError: a rank raised (with its traceback), died or took too long.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    call = pickle.dumps((fn, args))
    with tempfile.TemporaryDirectory(prefix="spawn-") as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_rank, args=(rank, ranks, folder, call, sender), name=f"rank {rank}")
            for rank, (_, sender) in enumerate(pipes)
        ]
        try:
            for process, (_, sender) in zip(processes, pipes, strict=True):
                process.start()
                sender.close()
            return _collect([receiver for receiver, _ in pipes], time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(receivers: list[Connection], deadline: float) -> list[Any]:
    """Waits for every rank's answer; the first error ends the wait."""
    results: dict[int, Any] = {}
    while len(results) < len(receivers):
        waiting = {receivers[rank]: rank for rank in range(len(receivers)) if rank not in results}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"ranks {sorted(waiting.values())} did not answer in time")
        for receiver in ready:
            rank = waiting[receiver]
            try:
                error, payload = receiver.recv()
            except EOFError:
                raise RuntimeError(f"rank {rank} died without an answer") from None
            if error:
                raise RuntimeError(f"rank {rank} raised:\n{error}")
            results[rank] = pickle.loads(payload)
    return [results[rank] for rank in range(len(receivers))]


def _rank(rank: int, ranks: int, folder: str, call: bytes, sender: Connection) -> None:
    """One rank: joins the group, calls the function, sends its result or its traceback."""
    gc.freeze()  # what was imported stays, and is not looked through in each of them
    try:
        import torch

        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
        os.environ.update(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        store = torch.distributed.FileStore(str(Path(folder) / "store"), ranks)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        fn, args = pickle.loads(call)
        sender.send((None, pickle.dumps(fn(*args))))
        # Nobody leaves, and so resets its connections, while another rank still waits for a message.
        torch.distributed.barrier()
    except BaseException:
        sender.send((traceback.format_exc(), None))
        raise SystemExit(1) from None
