"""A recipe for the tests: run.name says how it goes on."""

from __future__ import annotations

import logging
import sys
import time

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.launch.components import Component
from alphamed_nemo.launch.local import Launcher


@recipe("train_grpo")
def main(cfg: Config) -> None:
    logging.getLogger("alphamed_nemo").info("%d steps", cfg.grpo.steps)
    with Launcher(RunFolder.of(cfg).logs) as launcher:
        if cfg.run.name == "fails":
            launcher.start(Component("vllm", [sys.executable, "-c", "print('out of memory'); raise SystemExit(4)"]))
            launcher.wait("vllm")
        if cfg.run.name == "waits":
            launcher.start(Component("vllm", [sys.executable, "-c", "import signal; signal.pause()"]))
            print("waiting", flush=True)
            while True:
                time.sleep(0.1)  # signal.pause would miss one that comes just before it


if __name__ == "__main__":
    main()
