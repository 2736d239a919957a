"""The top of every recipe: Hydra, the typed config, checks, one-line errors, exit codes.

Nothing here imports torch or NeMo, so that a typing error is answered in a second.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from alphamed_nemo import families
from alphamed_nemo.cli.arguments import CONF, asks_for_help, check_arguments, help_text, overrides_first, quoted
from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import to_config
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.scrub import log_to_stderr, scrub_text
from alphamed_nemo.devices import cuda_is_available
from alphamed_nemo.errors import CheckpointError, ComponentError, ConversionError, JudgeError, Stopped, one_line
from alphamed_nemo.rewards.score import RewardError
from alphamed_nemo.rollout.connection import RolloutError

USER_ERROR, FAILED = 2, 1
NOISY = (
    "httpx",
    "nemo_logger",
    "matplotlib",
    "megatron.core.distributed.fsdp",
)  # loggers whose INFO lines say nothing about the run

# What torchrun tells its ranks. A recipe is one process that starts its ranks itself, with variables of their own.
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
USERS_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)

log = logging.getLogger(__name__)


def recipe(
    config_name: str, on_gpus: Callable[[], bool] | None = cuda_is_available
) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Makes `main(cfg: Config)` a command-line program with conf/<config_name>.yaml and Hydra overrides.

    A user's mistake (ValueError) ends it with status 2 and one line; a failed component with status 1 and its last
    log lines; a signal with 128 + its number.

    Args:
        config_name: the top config.
        on_gpus: whether what it starts or plans runs on GPUs, which decides what `auto` means for dtypes; None: it
            computes nothing with the model.
    """

    def decorate(main: Callable[[Config], None]) -> Callable[[], None]:
        def run() -> None:
            if asks_for_help(sys.argv[1:]):
                print(help_text(config_name, main.__globals__["__doc__"]))
                return
            warnings.filterwarnings("ignore")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself, and hides where a bug is
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers' own, which would break into ours
            try:
                forget_ranks()
                check_arguments(sys.argv[1:])
            except ValueError as error:
                fail(str(error), USER_ERROR)
            sys.argv[1:] = quoted(sys.argv[1:])
            register_schema()
            import hydra
            from hydra.errors import HydraException
            from omegaconf.errors import OmegaConfBaseException
            from yaml import YAMLError

            log_to_stderr("%(message)s")
            for noisy in NOISY:
                logging.getLogger(noisy).setLevel(logging.WARNING)
            sys.argv[1:] = overrides_first(sys.argv[1:])
            try:
                with_hydra = hydra.main(str(CONF), config_name, version_base=None)
                with_hydra(lambda cfg: guarded(main, cfg, on_gpus))()
            except (HydraException, OmegaConfBaseException, YAMLError) as error:
                fail(str(error), USER_ERROR)
            except UnicodeDecodeError as error:
                fail(f"a file of conf/ is not UTF-8 ({error})", USER_ERROR)

        return run

    return decorate


def register_schema() -> None:
    """Gives Hydra the defaults of `Config` as `schema`, and the interpolations the project's root."""
    from hydra.core.config_store import ConfigStore

    os.environ["ALPHAMED_ROOT"] = str(CONF.parent)
    ConfigStore.instance().store(name="schema", node=dataclasses.asdict(Config()))


def composed(config_name: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of conf/<config_name>.yaml with overrides, for programs that are no recipe; nothing is derived yet.

    Raises:
        ValueError: an unknown key, or a value of the wrong type.
    """
    from hydra import compose, initialize_config_dir

    register_schema()
    with initialize_config_dir(str(CONF), version_base=None):
        return _typed(compose(config_name, list(overrides)))


def _typed(values: Any) -> Config:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict), "a top config is a group of settings"
    return to_config({str(name): value for name, value in plain.items() if name != "hydra"})


def guarded(main: Callable[[Config], None], values: Any, on_gpus: Callable[[], bool] | None = None) -> None:
    """Runs `main` on the composed config and turns errors into exit codes."""
    try:
        cfg = _typed(values)
        check_values(cfg)
        families.register(cfg.model.families)
        fill_derived(cfg)
        if on_gpus:
            settle_dtypes(cfg, cuda=on_gpus())
        main(cfg)
    except ValueError as error:
        fail(str(error), USER_ERROR, error)
    except (ComponentError, RolloutError, RewardError, CheckpointError, ConversionError, JudgeError) as error:
        fail(str(error), FAILED)
    except OSError as error:  # a file of the user's that is not there or cannot be read; a full disk
        fail(one_line(error), USER_ERROR if isinstance(error, USERS_FILE) else FAILED, error)
    except KeyboardInterrupt:
        fail("interrupted; everything that was started has been stopped", 130)
    except Stopped as stopped:
        fail(f"{stopped}; everything that was started has been stopped", 128 + stopped.number)


def forget_ranks() -> None:
    """Takes out of the environment what some shells and containers set for ranks, and what a one-process recipe would
    wait for an hour by.

    Raises:
        ValueError: this is one of several processes of torchrun's.
    """
    found = {name: os.environ.pop(name) for name in RANKS if name in os.environ}
    if os.environ.get("TORCHELASTIC_RUN_ID") and found.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            f"torchrun has started {found['WORLD_SIZE']} processes of this recipe, which starts its ranks itself: run "
            "it with python, and set parallel.tensor, parallel.pipeline and parallel.data"
        )


def fail(message: str, status: int, error: Exception | None = None) -> None:
    """Ends the program with a message. ALPHAMED_TRACEBACK=1 shows where a user error was found."""
    if error is not None and os.environ.get("ALPHAMED_TRACEBACK"):
        log.error("", exc_info=error)
    if status == USER_ERROR:
        message = " ".join(message.split())  # Hydra and OmegaConf write several lines
    print(f"error: {scrub_text(message)}", file=sys.stderr)
    sys.exit(status)
