"""The ranks of one machine without GPUs, forked from one process that has imported what they run.

    python -m alphamed_nemo.launch.ranks RANKS PORT MODULE ARGUMENT...  # MODULE.main(ARGUMENT...) on each rank

torchrun starts each rank as a program of its own, which imports torch, Megatron and transformers once more: eight
seconds of a core and 0.2 GB. Here torchrun's elastic agent takes the ranks from Python's fork server. Not for GPUs: a
process that has touched CUDA cannot be forked.

SIGTERM goes on to the ranks, which save and end by themselves. Torch's agent would wait for ranks that have ended their
work and wait for it, and kill them after 30 s.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys

from setproctitle import setproctitle
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from alphamed_nemo.launch.child import descendants, kill, state_and_parent


def run_rank(module: str, arguments: list[str]) -> None:
    """What each rank runs; torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...) are set."""
    setproctitle(f"{module} rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
    importlib.import_module(module).main(*arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is left is to wait for the others, whatever `main` made of it


def pass_on(number: int, _frame: object) -> None:
    """To the ranks: the processes below this one that the fork server started."""
    ranks = [pid for pid in descendants(os.getpid()) if state_and_parent(pid)[1] != os.getpid()]
    if not ranks:
        sys.exit(128 + number)
    for pid in ranks:
        kill(pid, number)


@record  # so that the summary, the last lines of the log, ends with the first error of a rank
def main(ranks: int, port: int, module: str, arguments: list[str]) -> None:
    """Returns when all ranks have ended well.

    Raises:
        ChildFailedError: one did not; the others were stopped.
    """
    signal.signal(signal.SIGTERM, pass_on)
    os.environ["ALPHAMED_RANK_MODULE"] = module
    multiprocessing.get_context("forkserver").set_forkserver_preload(["alphamed_nemo.launch.preload"])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="ranks",
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        start_method="forkserver",
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
    )
    elastic_launch(config, run_rank)(module, arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
