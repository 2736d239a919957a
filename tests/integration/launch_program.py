"""Runs a launcher: `python -m tests.integration.launch_program LOGS PORT [torchrun|ranks]`. Prints its process ids."""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

from alphamed_nemo.errors import Stopped
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher

WAYS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m"],
    "ranks": ["-m", "alphamed_nemo.launch.ranks", "1", str(free_port())],
}


def main(logs: Path, port: str, start: list[str]) -> int:
    url = f"http://127.0.0.1:{port}/health"
    argv = [sys.executable, *start, "tests.integration.launch_family", port, "stubborn"]
    try:
        with Launcher(logs) as launcher:
            limits = {"ready_within_s": 60, "grace_s": 1, "silent_within_s": 1}
            launcher.start(Component("family", argv, health=url, **limits))
            launcher.wait_ready("family")
            print(urllib.request.urlopen(url).read().decode(), flush=True)
            while True:
                time.sleep(0.1)  # signal.pause would miss one that comes just before it
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], WAYS.get(sys.argv[-1], ["-m"])))
