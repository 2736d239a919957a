"""Before vLLM starts on GPUs that it shares with the trainer: waits until the memory that it will take is free.

A server that is started again, in place of one that died asleep, would else find the trainer's memory taken and end.
The trainer gives it back for the next refit (policy/offload.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

ROOM = "ALPHAMED_ROLLOUT_ROOM"  # share of each GPU's memory that vLLM will take; not set: it shares none
POLL_EVERY_S = 0.5

log = logging.getLogger(__name__)


def wait_for_room(
    memory: Callable[[], Iterator[tuple[int, int]]] | None = None, pause: Callable[[float], None] = time.sleep
) -> None:
    """Returns when every GPU that this process sees has the share free. Whoever waits for the server has the limit.

    Args:
        memory: gives (free, total) bytes of each GPU; None: asks the driver.
        pause: takes seconds.
    """
    if not (share := float(os.environ.get(ROOM, "0"))):
        return
    memory = memory or of_visible_gpus
    told = False
    while any(free < share * total for free, total in memory()):
        if not told:
            log.warning("vLLM waits until the trainer has given back %.0f%% of the memory of each GPU", 100 * share)
            told = True
        pause(POLL_EVERY_S)


def of_visible_gpus() -> Iterator[tuple[int, int]]:
    """(free, total) bytes of each GPU in CUDA_VISIBLE_DEVICES, or of all. By the driver, without touching CUDA."""
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    try:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        for name in named.split(",") if named else map(str, range(pynvml.nvmlDeviceGetCount())):
            by = pynvml.nvmlDeviceGetHandleByIndex if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
            found = pynvml.nvmlDeviceGetMemoryInfo(by(int(name) if name.isdecimal() else name))
            yield int(found.free), int(found.total)
    finally:
        pynvml.nvmlShutdown()
