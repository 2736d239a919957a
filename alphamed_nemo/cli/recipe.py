"""The top of every recipe: Hydra, the typed config, checks, one-line errors, exit codes.

Nothing here imports torch or NeMo, so that a typing error is answered in a second.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alphamed_nemo import families
from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import known_keys, known_settings, to_config, unknown_key
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.scrub import log_to_stderr, scrub_text
from alphamed_nemo.devices import cuda_is_available
from alphamed_nemo.errors import CheckpointError, ComponentError, ConversionError, Stopped, one_line
from alphamed_nemo.rewards.score import RewardError
from alphamed_nemo.rollout.connection import RolloutError

CONF = Path(__file__).resolve().parents[2] / "conf"
USER_ERROR, FAILED = 2, 1
NOISY = ("httpx", "nemo_logger", "matplotlib")  # loggers whose INFO lines say nothing about the run

# The run folder and the log are the project's own.
HYDRA = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=stdout"]
# What torchrun tells its ranks. A recipe is one process that starts its ranks itself, with variables of their own.
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
USERS_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
OPEN = ("hydra", "exp_manager.", "sources.", "label.mixture.")  # settings below these are the user's to name

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
            warnings.filterwarnings("ignore")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself, and hides where a bug is
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers' own, which would break into ours
            try:
                forget_ranks()
                check_overrides(sys.argv[1:])
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
            sys.argv += HYDRA
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
    except (ComponentError, RolloutError, RewardError, CheckpointError, ConversionError) as error:
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


def quoted(arguments: list[str]) -> list[str]:
    """Overrides of text settings with their values quoted, so that Hydra's grammar takes none apart: paths may have
    spaces, commas, equal signs, quotes and letters of any language, and a name may look like a number."""
    texts = {name for name, hint, _ in known_settings() if hint is str}
    done = []
    for argument in arguments:
        name, sign, value = argument.partition("=")
        left = value in ("", "null") or value[0] in "'\"" or "${" in value
        if name.lstrip("+") in texts and not left:
            escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)  # backslashes count only before a quote
            trailing = len(escaped) - len(escaped.rstrip("\\"))
            argument = f"{name}{sign}'{escaped}{chr(92) * trailing}'"
        done.append(argument)
    return done


def check_overrides(arguments: list[str]) -> None:
    """Refuses overrides of settings and choices of groups that do not exist, before Hydra does so at length.

    Raises:
        ValueError: the setting and the nearest one, or the group and its members.
    """
    known = set(known_keys())
    groups = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()}
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        name, value = argument.split("=", 1)
        name = name.lstrip("+~").split("@")[0]
        if name in groups:
            check_choice(name, value)
        elif name not in known and not name.startswith(OPEN):
            raise unknown_key(name)


def check_choice(group: str, value: str) -> None:
    """Refuses a file that conf/<group> does not have."""
    folder = CONF / group
    if value == "null":  # Hydra takes it in a file's defaults, and fails on it here
        raise ValueError(f"{group}: null is no choice on the command line; '~{group}' takes an experiment's away")
    members = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    if value not in members and not value.startswith("["):
        raise ValueError(f"{group}: no conf/{group}/{value}.yaml; there are {', '.join(members)}")


def fail(message: str, status: int, error: Exception | None = None) -> None:
    """Ends the program with a message. ALPHAMED_TRACEBACK=1 shows where a user error was found."""
    if error is not None and os.environ.get("ALPHAMED_TRACEBACK"):
        log.error("", exc_info=error)
    if status == USER_ERROR:
        message = " ".join(message.split())  # Hydra and OmegaConf write several lines
    print(f"error: {scrub_text(message)}", file=sys.stderr)
    sys.exit(status)
