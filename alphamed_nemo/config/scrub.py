"""Keys, tokens and passwords, known by the names before them or by their form, and hidden in all that is written.

Settings, reports, provenance and logs pass through `scrub` or `scrub_text`; a release is searched with the same rules.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "(hidden)"

_KIND = r"api|access|private|secret|auth|account|shared|signing|encryption|service|master|ssh|subscription"
_WORD = rf"(?:{_KIND})[_-]?key|secret|passw(?:or)?d|passphrase|pwd|credentials?"
_NAME = re.compile(rf"(?:^|[_.-])(?:{_WORD}|(?:proxy-)?authorization|(?:set-)?cookie|(?P<token>token))$", re.IGNORECASE)
_SPECIAL = re.compile(r"[<\[{(].*|.*[>\])}]|.{0,3}|None|null|true|false", re.IGNORECASE | re.DOTALL)  # </s>, [PAD], !
_ARGUMENT = re.compile(
    r"(--?[\w.-]*(?:key|token|secret|passw(?:or)?d|passphrase|pwd|credentials?|authorization))(=(.+))?"
)
_HIDDEN_VARIABLE = re.compile(
    r"(?!.*(?:PATH|FILE|DIR|HOME|NAME|TYPE)$).*(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)"
)
_SHORTEST_VALUE = 8  # characters of a variable's value that is looked for in texts

URL_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/?#\"'<>]*@", re.IGNORECASE)
FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|AKIA[0-9A-Z]{12,}|xox[abprs]-[\w-]{8,}|wandb_v\d_\w{16,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)",
    re.DOTALL,
)
_HEADER = re.compile(
    r"(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:\w+\s+)?|\bbearer\s+(?=[\w.~+/=-]*\d|[\w.~+/=-]{20}))([\w.~+/=-]{4,})",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(--[\w.-]*(?:key|token|secret|passw(?:or)?d|passphrase|pwd|credentials?|authorization)(?:=|\s+)[\"']?)"
    r"(?!-)([^\s\"',\])]+)",
    re.IGNORECASE,
)
_MESSAGE = r"None\b|null\b|true\b|false\b|found\b|empty\b|expected\b|missing\b"  # no values: of a setting's own error
_ASSIGNED = re.compile(
    rf"((?<![A-Za-z])(?:[\w.-]*[_.-])?(?:{_WORD}|token)[\"']?\s*[=:]\s*[\[(]?[\"']?)(?!{_MESSAGE})"
    r"([^\s\"',;<>()\[\]{}]{4,})",
    re.IGNORECASE,
)


def is_secret(name: str, value: str) -> bool:
    """Whether a value is a secret because of the name that it is given. A tokenizer's special tokens are none."""
    found = _NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    return bool(value) and found is not None and not (found["token"] and _SPECIAL.fullmatch(value))


def scrub(value: Any, name: str = "") -> Any:
    """Settings, or any other nested values, with every secret in them hidden.

    Args:
        value: mappings, lists and scalars. A list may be a command's arguments: `--api-key X` and `--api-key=X`.
        name: what the value is called.
    """
    if isinstance(value, Mapping):
        return {key: scrub(content, name if is_secret(name, "x" * 9) else str(key)) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return list(_scrubbed_list(value, name))
    if isinstance(value, str):
        return HIDDEN if is_secret(name, value) else scrub_text(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return HIDDEN if is_number and is_secret(name, f"number {value}") else value


def scrub_text(text: str) -> str:
    """A text with every secret in it hidden: by its form, the name before it, or as a value of the environment."""
    for value in environment_secrets().values():
        text = text.replace(value, HIDDEN)
    text = FORMS.sub(HIDDEN, URL_USER.sub(rf"\1{HIDDEN}@", text))
    for named in (_HEADER, _OPTION, _ASSIGNED):
        text = named.sub(lambda found: found[0] if HIDDEN in found[0] else found[1] + HIDDEN, text)
    return text


def environment_secrets() -> dict[str, str]:
    """Variables of the environment that hold a secret, by their names."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_VALUE and _HIDDEN_VARIABLE.match(name.upper())
    }


def secret_places(value: Any, place: str = "") -> Iterator[str]:
    """Dotted names of everything that `scrub` hides."""
    yield from _changed(value, scrub(value), place)


def _changed(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, Mapping):
        for key, content in before.items():
            yield from _changed(content, after[key], f"{place}.{key}" if place else str(key))
    elif isinstance(before, list | tuple):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _changed(one, other, f"{place}[{index}]")
    elif before != after:
        yield place


def _scrubbed_list(values: list | tuple, name: str) -> Iterator[Any]:
    is_value = False  # of the argument before it
    for value in values:
        argument = _ARGUMENT.fullmatch(value) if isinstance(value, str) else None
        if argument and argument[2]:
            yield f"{argument[1]}={HIDDEN}"
        elif is_value and not argument:
            yield HIDDEN
        else:
            yield scrub(value, name)
        is_value = argument is not None and not argument[2]


class ScrubbedFormatter(logging.Formatter):
    """Log lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub_text(super().format(record))


def log_to_stderr(style: str) -> None:
    """As `logging.basicConfig(level=INFO, format=style)`, with secrets hidden."""
    handler = logging.StreamHandler()
    handler.setFormatter(ScrubbedFormatter(style))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
