"""The fields of a row, in whatever form files have them: texts, paragraphs, options, level, metadata.

Each reader takes what has one meaning and refuses everything else, so that no list, number or NaN is ever shown to a
model as the text that Python prints for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alphamed_nemo.data.question import LETTERS
from alphamed_nemo.data.text_files import parse_json

TEXT_KEYS = frozenset(("text", "content", "value", "option"))
LABEL_KEYS = frozenset(("letter", "label", "key", "id"))
NOTHING = frozenset(("", "nan", "null", "none"))  # what table tools write for a missing level or metadata
OPTION_FORMS = 'a list of texts, {"A": text, …} or [{"text": …}, …]'
LEVELS = "a whole number of 1 (the easiest) and up, or nothing"
LEVEL = re.compile(r"[Ll]?(\d{1,3})(?:\.0+)?")
SHOWN = 60  # characters of a value in a message


class Unusable(Exception):
    """A row that no question can be made of. `reason` is counted, `detail` is for reading."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Options:
    """Options in the order shown.

    Attributes:
        texts: one for each, stripped.
        base: what the row's own numbers for them count from, 0 or 1; None where it gives letters, or nothing.
    """

    texts: tuple[str, ...]
    base: int | None = None


def text(value: object, key: str = "text") -> str:
    """A cell as text, stripped: empty for a missing value (None, or the NaN that table tools write).

    Args:
        key: what to call the cell in the error.

    Raises:
        Unusable: a list, an object, true or false, or text that no file can hold.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, (bool, Mapping, list, tuple, set, bytes)):
        raise unreadable(key, value, "text")
    shown = str(value).strip()
    if not shown.isascii() and any("\ud800" <= character <= "\udfff" for character in shown):
        raise Unusable(f"unreadable {key}", "half of a UTF-16 pair (\\ud800 to \\udfff without its other half)")
    return shown


def paragraphs_of(value: object, key: str = "context") -> str:
    """A text, a list of paragraphs (also as JSON text), or PubMedQA's {"contexts": […]}, as one text, a line each.

    Raises:
        Unusable: anything else.
    """
    if isinstance(value, str):
        shown = text(value, key)
        listed = _json_list(shown)
        return "" if shown.casefold() == "nan" else shown if listed is None else paragraphs_of(listed, key)
    if isinstance(value, Mapping) and "contexts" in value:
        return paragraphs_of(value["contexts"], key)
    if isinstance(value, (list, tuple)):
        return "\n".join(text(paragraph, key) for paragraph in value)
    return text(value, key)


def _json_list(shown: str) -> list[str] | None:
    """The texts of a JSON list of texts; None for any other text, since prose may begin with a bracket too."""
    if not shown.startswith("["):
        return None
    try:
        value = parse_json(shown)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def options_of(value: object) -> Options:
    """The options of a row.

    Read are a list of texts or numbers; an object by letter (or by number, from 0 or 1, without a gap); a list of
    {"text": …}, {"letter": …, "content": …} or {"A": …}; {"label": […], "text": […]}; and any of these as JSON or as
    Python prints it, which is what a CSV cell can hold. Empty ones at the end are dropped: a table gives every row the
    columns of its longest one.

    Raises:
        Unusable: another form, letters that are not A, B, C, … once each, or not 2 to 26 options.
    """
    options = _options(_parsed(value) if isinstance(value, str) else value)
    if not 2 <= len(options.texts) <= len(LETTERS):
        found = len(options.texts) or "none given"
        raise Unusable("number of options", f"{found}, expected 2 to {len(LETTERS)}")
    return options


def _options(value: object) -> Options:
    if value is None or value != value:
        return Options(())
    if isinstance(value, Mapping):
        return _ordered(_columns(value) or list(value.items()))
    if not isinstance(value, (list, tuple)):
        raise unreadable("options", value, OPTION_FORMS)
    items = list(value)
    while items and (items[-1] is None or items[-1] != items[-1]):
        items.pop()
    if items and all(isinstance(item, Mapping) for item in items):
        return _ordered([_pair(item) for item in items])
    return Options(_without_empty_end([text(item, "options") for item in items]))


def _parsed(shown: str) -> object:
    """The list or object that a text stands for; None for an empty one."""
    shown = shown.strip()
    if not shown:
        return None
    if shown.startswith(("[", "{")):
        try:
            return parse_json(shown)
        except ValueError:
            pass
        try:
            value = ast.literal_eval(shown)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        # numpy prints "['a' 'b']", which Python reads as one text: what is read must print as what was there
        if isinstance(value, (list, dict)) and "".join(repr(value).split()) == "".join(shown.split()):
            return value
    raise unreadable("options", shown, OPTION_FORMS)


def _columns(value: Mapping) -> list[tuple[object, object]] | None:
    """Pairs of {"label": […], "text": […]}; None for an object of another form."""
    texts = [key for key in value if str(key).casefold() in TEXT_KEYS and isinstance(value[key], (list, tuple))]
    labels = [key for key in value if str(key).casefold() in LABEL_KEYS and isinstance(value[key], (list, tuple))]
    if len(texts) != 1 or len(labels) > 1 or len(texts) + len(labels) < len(value):
        return None
    shown = list(value[texts[0]])
    names = list(value[labels[0]]) if labels else [None] * len(shown)
    if len(names) != len(shown):
        raise Unusable("unreadable options", f"{len(names)} labels for {len(shown)} texts")
    return list(zip(names, shown, strict=True))


def _pair(item: Mapping) -> tuple[object, object]:
    """(label or None, text) of one option given as an object."""
    texts = [key for key in item if str(key).casefold() in TEXT_KEYS]
    labels = [key for key in item if str(key).casefold() in LABEL_KEYS]
    if len(texts) == 1 and len(labels) <= 1 and len(texts) + len(labels) == len(item):
        return item[labels[0]] if labels else None, item[texts[0]]
    if len(item) == 1:
        return next(iter(item.items()))
    names = ", ".join(map(str, item)) or "nothing"
    raise Unusable("unreadable options", f'found an object with {names}, expected {{"text": …}} or {{"A": …}}')


def _ordered(pairs: Sequence[tuple[object, object]]) -> Options:
    """Options by their labels, which are letters, or numbers that count from 0 or 1; in their order without labels."""
    texts = [text(shown, "options") for _, shown in pairs]
    if all(label is None for label, _ in pairs):
        return Options(_without_empty_end(texts))
    labels = [text(label, "option letters").strip("().: ").upper() for label, _ in pairs]
    for base, wanted in (
        (None, list(LETTERS[: len(pairs)])),
        (1, [str(i + 1) for i in range(len(pairs))]),
        (0, [str(i) for i in range(len(pairs))]),
    ):
        if set(labels) == set(wanted) and len(labels) == len(wanted):
            return Options(_without_empty_end([texts[labels.index(label)] for label in wanted]), base)
    raise Unusable("option letters", f"{', '.join(labels)}; expected A, B, C, … once each")


def _without_empty_end(texts: list[str]) -> tuple[str, ...]:
    while texts and not texts[-1]:
        texts = texts[:-1]
    return tuple(texts)


def level_of(value: object) -> int | None:
    """A difficulty level, also as "L3"; None where there is none. Raises: Unusable."""
    try:
        shown = text(value, "level")
    except Unusable:
        raise unreadable("level", value, LEVELS) from None
    if shown.casefold() in NOTHING:
        return None
    match = LEVEL.fullmatch(shown)
    if match is None or int(match[1]) < 1:
        raise unreadable("level", value, LEVELS)
    return int(match[1])


def metadata_of(value: object) -> dict:
    """An object, also as JSON text; {} where there is none. Raises: Unusable."""
    if value is None or value != value or (isinstance(value, str) and value.strip().casefold() in NOTHING):
        return {}
    found = value
    if isinstance(value, str):
        try:
            found = parse_json(value)
        except ValueError:
            found = None
    if not isinstance(found, Mapping):
        raise unreadable("metadata", value, 'an object such as {"ward": 3}')
    return dict(found)


def unreadable(key: str, value: object, expected: str) -> Unusable:
    """The error for a value of another form than `key` has."""
    kinds = {Mapping: "an object", (list, tuple, set): "a list", str: "the text"}
    kind = next((words for types, words in kinds.items() if isinstance(value, types)), "")
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return Unusable(f"unreadable {key}", f"found {f'{kind} {shown}' if kind else shown}, expected {expected}")
