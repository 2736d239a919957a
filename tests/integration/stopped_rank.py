"""Ranks for `alphamed_nemo.launch.ranks`, without torch's groups: `main(way)` says its process id, and when it ends.

stops   every rank waits for SIGTERM, takes it as a flag, as the trainer does, and ends well
ends    rank 1 ends well at once; rank 0 waits to be killed
"""

from __future__ import annotations

import os
import signal


def main(way: str) -> None:
    # A pipe, since torch may have made threads: the kernel gives a signal to any of them, and sigwait would miss it.
    asked, asks = os.pipe()
    os.set_blocking(asks, False)
    signal.set_wakeup_fd(asks)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    rank = os.environ["RANK"]
    os.write(1, f"rank {rank} is {os.getpid()}\n".encode())
    if way == "stops" or rank == "0":
        os.read(asked, 1)
    os.write(1, f"rank {rank} has ended\n".encode())
