"""Text files as people save them, and JSON in which nothing is lost."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

# UTF-32's mark begins with UTF-16's, so it is looked for first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, or of a UTF-16 or UTF-32 file with one.

    Line ends are left as they are.

    Raises:
        ValueError: other bytes; names the file, the line and the byte.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\x00" in data[:4]:
        raise ValueError(f"{path}: UTF-16 or UTF-32 without a byte order mark; save the file as UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not {encoding.removesuffix('-sig')} (byte 0x{data[error.start]:02x}); save the file "
            "as UTF-8"
        ) from error


def parse_json(text: str) -> object:
    """A JSON value. A key that an object has twice is an error, since only one of its values could be kept.

    Raises:
        ValueError: not JSON, nested too deeply, or a repeated key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return found
