"""The command line of a recipe: what is a mistake on it, in one line, and what Hydra is handed instead of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path
from typing import get_origin

from alphamed_nemo.config.files import NEAR, known_keys, known_settings, unknown_key

CONF = Path(__file__).resolve().parents[2] / "conf"
# The run folder and the log are the project's own.
HYDRA = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=stdout"]
SWEEP = ("--multirun", "-m")
OPTIONS = (*SWEEP, "--resolve", "--run", "-r", "--version", "--hydra-help", "--shell-completion", "-sc")  # of Hydra
VALUED = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn")
VALUED += ("--config-dir", "-cd", "--experimental-rerun")
OPEN = ("hydra", "exp_manager.", "sources.", "label.mixture.")  # settings below these are the user's to name


def asks_for_help(arguments: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in arguments)


def help_text(name: str, about: str) -> str:
    """What `--help` prints.

    Args:
        name: of the recipe.
        about: its docstring.
    """
    return (
        f"{about.strip()}\n\nSettings are given as setting=value, without dashes.\n"
        f"  ./run {name} --cfg job   prints every setting with the value it would have\n"
        "  docs/settings.md         says what each is, and what it may be"
    )


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses what is neither a setting nor an option, settings and choices of groups that do not exist, and several
    values for a setting that has one: before Hydra does so at length.

    Raises:
        ValueError: the argument and what to write instead; the nearest setting; the group and its members.
    """
    groups = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()}
    sweeps = any(option in arguments for option in SWEEP)
    before = ""
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            _check_option(argument, arguments[number + 1 : number + 2])
        elif "=" in argument:
            _check_override(argument, groups, sweeps)
        elif before not in VALUED and not argument.startswith("~"):
            raise ValueError(_not_a_setting(argument, arguments[number + 1 : number + 2]))
        before = argument


def _check_option(argument: str, following: Sequence[str]) -> None:
    name, sign, value = argument.partition("=")
    if name not in (*OPTIONS, *VALUED):
        value = value if sign else "".join(following)
        setting = name.lstrip("-").replace("-", "_")
        leaves = [known for known in _known() if known.rpartition(".")[2] == setting]
        known = setting if setting in _known() else next(iter(leaves), "")
        shown = f"{known}={value or 'value'}" if known else "grpo.steps=10"
        raise ValueError(f"{name} is no option; settings are given without dashes, as in {shown}")


def _check_override(argument: str, groups: Set[str], sweeps: bool) -> None:
    name, value = argument.split("=", 1)
    name = name.lstrip("+~").split("@")[0]
    if name in groups:
        check_choice(name, value)
    elif name not in _known() and not name.startswith(OPEN):
        raise unknown_key(name)
    elif "," in value and value[0] not in "[{'\"$" and not sweeps and (kind := _kind_of(name)) not in (str, None):
        wanted = f"a list: write '{name}=[{value}]'" if kind is list else "one value"
        raise ValueError(f"{name}: found {value}, expected {wanted}")


def _not_a_setting(argument: str, following: Sequence[str]) -> str:
    name = argument.lstrip("+")
    if name in _known():
        value = following[0] if following and "=" not in following[0] else "value"
        return f"{name}: found no value; write {argument}={value}, without a space"
    return f"found {argument!r}, expected a setting such as grpo.steps=10"


@cache
def _known() -> list[str]:
    """Every setting and group, in the order of the schema."""
    return list(known_keys())


def _kind_of(name: str) -> type | None:
    """What a setting has: str, int, float, bool, list; None where any may be, or the name is a group's."""
    hint = next((hint for known, hint, _ in known_settings() if known == name), None)
    kind = get_origin(hint) or hint
    return kind if isinstance(kind, type) and kind in (str, int, float, bool, list) else None


def check_choice(group: str, value: str) -> None:
    """Refuses a file that conf/<group> does not have."""
    folder = CONF / group
    if value == "null":  # Hydra takes it in a file's defaults, and fails on it here
        raise ValueError(f"{group}: null is no choice on the command line; '~{group}' takes an experiment's away")
    members = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    if value not in members and not value.startswith("["):
        nearest = difflib.get_close_matches(value, members, n=1, cutoff=NEAR)
        there_are = f"there are {', '.join(members)}"
        there_are = f"the nearest one is {nearest[0]} ({there_are})" if nearest else there_are
        raise ValueError(f"{group}: no conf/{group}/{value}.yaml; {there_are}")


def quoted(arguments: Sequence[str]) -> list[str]:
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


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """Settings, the project's own for Hydra among them, then options such as `--cfg job`: Hydra's parser takes settings
    in one block only, and an option such as `--info` would take the setting behind it for its value."""
    settings = [each for each in arguments if not each.startswith("-") and ("=" in each or each[0] in "~+")]
    return [*settings, *HYDRA, *(each for each in arguments if each not in settings)]
