"""A trainer whose rank 0 is killed in the moment in which the checkpoint of step 2 is complete."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from alphamed_nemo.grpo import worker
from alphamed_nemo.policy.checkpoint import folder as checkpoint

real_prune = checkpoint.prune


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Comes right after a save."""
    if (Path(folder) / "step_2").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return real_prune(folder, keep)


def main(config_path: str) -> None:
    checkpoint.prune = prune
    worker.main(config_path)


if __name__ == "__main__":
    main(sys.argv[1])
