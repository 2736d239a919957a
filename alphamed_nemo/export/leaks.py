"""Nothing of the machine or the person leaves with a release: every text in it is searched before it is published."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphamed_nemo.config import Config
from alphamed_nemo.config.scrub import FORMS, environment_secrets, is_secret

BINARY = (".safetensors", ".model", ".bin", ".pt", ".gguf")
WORD_LISTS = ("vocab.json", "merges.txt")  # a tokenizer's vocabulary holds "/usr", "localhost" and the like as tokens
_LOCAL_ZONES = ("local", "localhost", "localdomain", "internal", "intranet", "lan", "home", "corp", "cluster", "svc")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s\"'<>)\]`/?#]*)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.])(?:localhost|(?:\d{1,3}\.){3}\d{1,3}):\d{2,5}\b")
_ABSOLUTE = re.compile(r"(?<![\w./:<>$}{)*~-])/(?:[A-Za-z_.][\w.@+-]*/)+[\w.@+-]*")
_ROOTS = re.compile(r"(?<![\w./:<-])/(?:home|root|Users|mnt|tmp|scratch|lustre|gpfs|nfs|workspace)\b(?:/[\w.@+-]*)*")
_OTHER_PATHS = re.compile(
    r"(?<!\w)~(?:[A-Za-z_][\w-]*)?/[A-Za-z_.][\w./-]*|\b[A-Za-z]:\\[\w.\\-]+|\\\\[\w.-]+\\[\w.$\\-]+|\bfile:/\S+"
)
_SECRET_NAME = r"api[_-]?key|access[_-]?key|private[_-]?key|secret(?:[_-]?key)?|password|passwd|credentials?"
_ASSIGNED = re.compile(rf"(?:{_SECRET_NAME})[\"']?\s*(?:[=:]|\s)\s*[\"']?([^\s\"',;}}]{{3,}})", re.IGNORECASE)
_FLAG = re.compile(rf"--(?:{_SECRET_NAME}|token)[=\s]\s*(\S+)|\bbearer\s+([\w.~+/=-]{{8,}})", re.IGNORECASE)
_SHORTEST = 4  # letters of a user's or host's name that can be told from a word's part
# Accounts that say nothing of a person, and words of every card.
_COMMON = set("root user users ubuntu admin debian runner docker nobody test main train data model home host".split())


def check_texts(folder: Path) -> None:
    """Searches every text of a folder for what must not be published.

    Local and absolute paths, addresses inside a network, URLs with a user or a port, keys by their form, by the name
    that they are given or because a variable of the environment holds them, and this machine's and user's names.

    Raises:
        ValueError: every finding, with its file; a key is not repeated.
    """
    found = [
        f"{path.relative_to(folder)}: {what}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in BINARY and path.name not in WORD_LISTS
        for what in leaks_of(path.name, path.read_text(encoding="utf-8", errors="replace"))
    ]
    if found:
        raise ValueError(
            f"not released, since it would publish what belongs to this machine or to a person: {'; '.join(found)}. "
            "Remove it where it comes from: the base model's folder, or a name that was given to a run, a data set or "
            "a result"
        )


def leaks_of(name: str, text: str) -> list[str]:
    """What a text holds that must not be published; one phrase for each finding, none twice.

    Args:
        name: of its file; names of the user and of the host are looked for in JSON and in model cards, since a
            license may hold any word.
    """
    parts = list(_strings(name, text))
    found: dict[str, None] = {}
    for key, value in parts:
        found |= dict.fromkeys(_in_text(value))
        if is_secret(key, value):
            found[f"a value of {key!r}"] = None
    if name.endswith((".json", ".md")) and not name.upper().startswith(("LICEN", "NOTICE", "USE_POLICY")):
        whole = "\n".join(value for _, value in parts)
        for what, word in _names():
            if re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", whole, re.IGNORECASE):
                found[f"the name of the {what}, {word!r}"] = None
    return list(found)


def _strings(name: str, text: str) -> Iterator[tuple[str, str]]:
    """(key, text) of everything in a JSON file but a tokenizer's vocabulary; other files as one text."""
    try:
        values = json.loads(text) if name.endswith(".json") else None
    except ValueError:
        values = None
    if values is None:
        yield "", text
        return
    if name == "tokenizer.json" and isinstance(values, dict):
        model = values.get("model")
        values = values | {"model": {k: v for k, v in (model or {}).items() if k not in ("vocab", "merges")}}
    yield from _leaves("", values)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, content in value.items():
            yield "", str(name)
            yield from _leaves(str(name), content)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(key, item)
    elif isinstance(value, str):
        yield key, value


def _in_text(text: str) -> Iterator[str]:
    for scheme, authority in _URL.findall(text):
        if reason := _local_url(scheme.lower(), authority.lower()):
            yield reason
    yield from (f"an address, {found[0]!r}" for found in _ADDRESS.finditer(text))
    for paths in (_ABSOLUTE, _ROOTS, _OTHER_PATHS):
        yield from (f"a path, {found[0]!r}" for found in paths.finditer(text))
    if FORMS.search(text):
        yield "a key, by its form"
    if _FLAG.search(text) or any(not _is_placeholder(found[1]) for found in _ASSIGNED.finditer(text)):
        yield "a key, by the name before it"
    for variable, value in environment_secrets().items():
        if value in text:
            yield f"the value of the environment's {variable}"


def _local_url(scheme: str, authority: str) -> str:
    """Why a URL is not one for everybody; empty where it is."""
    host, _, port = authority.rpartition("@")[2].partition(":")
    if "@" in authority:
        return f"a URL with a user, {scheme}://...@{host}"
    if port:
        return f"a server's URL, {scheme}://{host}:{port}"
    numeric = re.fullmatch(r"\[.*|[\d.]+", host)
    if host and (numeric or "." not in host or host.rpartition(".")[2] in _LOCAL_ZONES) and scheme != "about":
        return f"a local URL, {scheme}://{host}"
    return ""


def _is_placeholder(value: str) -> bool:
    """A license speaks of passwords, and a template of the words after them."""
    return not re.search(r"\d", value) or value.startswith(("{", "<", "$"))


def _names() -> Iterator[tuple[str, str]]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        user = ""
    host = socket.gethostname()
    ordinary = _COMMON | set(re.findall(r"[a-z0-9]+", json.dumps(asdict(Config())).lower()))
    ordinary |= {"alphamed", "nemo", "llama", "qwen", "transformers", "vllm", "localhost", "medical", "reasoning"}
    for what, name in (("user", user), ("host", host), ("host", host.partition(".")[0])):
        if len(name) >= _SHORTEST and name.lower() not in ordinary:
            yield what, name
