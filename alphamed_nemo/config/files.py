"""From composed settings to the typed `Config`, and to and from a run's config.yaml. No Hydra at import."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.private import write_private
from alphamed_nemo.config.schema import Config
from alphamed_nemo.config.scrub import scrub

# Keys of the servers: from the environment of whoever needs them, never in a file of the run folder.
SECRETS = {
    ("rollout", "api_key"): "ALPHAMED_ROLLOUT_API_KEY",
    ("reward", "api_key"): "ALPHAMED_REWARD_API_KEY",
}

NEAR = 0.6  # difflib's own cutoff for a close match


def to_config(values: Mapping[str, Any]) -> Config:
    """Checks names and types.

    Raises:
        ValueError: an unknown key, with the nearest known one, or a value of the wrong type.
    """
    return _fill(Config, values, "")


def known_keys() -> Iterator[str]:
    """Every setting and every group with its dotted name."""
    return (name for name, *_ in _fields(Config))


def known_settings() -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """Every single setting of a group: its dotted name, its type and its field."""
    return (found for found in _fields(Config) if "." in found[0])


def settings_of(cls: type) -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """The settings of one group: name, type and field."""
    return _fields(cls)


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field]]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        yield name, hint, field
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{name}.")


def unknown_key(name: str) -> ValueError:
    """The error for a setting that does not exist: the nearest one, and its neighbours where it is not near at all."""
    names = list(known_keys())
    section, _, leaf = name.rpartition(".")
    elsewhere = [known for known in names if known.rpartition(".")[2] == leaf]
    nearest = difflib.get_close_matches(name, elsewhere or names, n=1, cutoff=0.0)[0]
    message = f"unknown setting {name!r}; the nearest one is {nearest!r}"
    here = [known.rpartition(".")[2] for known in names if known.rpartition(".")[0] == section]
    if section and here and difflib.SequenceMatcher(None, leaf, nearest.rpartition(".")[2]).ratio() < NEAR:
        message += f" ({section} has {', '.join(here)})"
    return ValueError(message)


def write_config(cfg: Config, path: Path) -> None:
    """Writes every setting, except secrets; only the owner may read it."""
    values = dataclasses.asdict(cfg)
    for section, name in SECRETS:
        values[section][name] = ""
    with whole_file(path) as part:
        write_private(part, yaml.safe_dump(scrub(values), sort_keys=False))


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file.

    Raises:
        ValueError: it is not UTF-8, or not YAML; one line with the file and the line in it.
    """
    data = Path(path).read_bytes()
    try:
        return yaml.safe_load(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{place}: not YAML ({getattr(error, 'problem', None) or error})") from error


def load_config(path: str | Path) -> Config:
    """Reads what `write_config` wrote; secrets come from the environment."""
    cfg = to_config(read_yaml(path))
    for (section, name), variable in SECRETS.items():
        setattr(getattr(cfg, section), name, os.environ.get(variable, ""))
    return cfg


def _fill(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix.rstrip('.')}: found {values!r}, expected a group of settings")
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise unknown_key(f"{prefix}{name}")
    filled = {name: _value(value, hints[name], f"{prefix}{name}") for name, value in values.items()}
    return cls(**filled)


def _entry(value: Any, hint: Any, name: str) -> Any:
    """One entry of a group whose names are the user's. An unknown key of it is its own class's to refuse."""
    if not dataclasses.is_dataclass(hint):
        return _value(value, hint, name)
    if not isinstance(value, Mapping | types.NoneType):
        raise ValueError(f"{name}: found {value!r}, expected a group of settings")
    hints = typing.get_type_hints(hint)
    return {
        key: _value(each, hints[key], f"{name}.{key}") if key in hints else each for key, each in (value or {}).items()
    }


def _value(value: Any, hint: Any, name: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _fill(hint, value, f"{name}.")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        origin = str
    if origin is list and isinstance(value, list):
        (element,) = typing.get_args(hint)
        return [_value(each, element, f"{name}[{index}]") for index, each in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        _, element = typing.get_args(hint)
        if element is typing.Any:
            return dict(value)
        return {key: _entry(each, element, f"{name}.{key}") for key, each in value.items()}
    if origin is float and type(value) in (int, str):  # YAML 1.1 reads 1e-6 as text
        try:
            return float(value)
        except ValueError:
            pass
    if origin is str and value is None:
        return ""
    if origin is str and type(value) is int:  # run.name=7
        return str(value)
    if type(value) is not origin:
        raise ValueError(f"{name}: found {value!r} ({type(value).__name__}), expected {origin.__name__}")
    return value
