"""docs/settings.md, made of the schema: every setting with its default, what it may be, and what its comment says.

python -m alphamed_nemo.cli.settings_page > docs/settings.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alphamed_nemo.config import Config
from alphamed_nemo.config.ranges import RANGE
from alphamed_nemo.config.resuming import on_resume

HEAD = """# Settings

Every setting that a recipe knows. `./run quickstart grpo.steps=10` changes one. Made of `alphamed_nemo/config/`:
`python -m alphamed_nemo.cli.settings_page > docs/settings.md`. Presets are in `conf/`, and override these defaults.

"On resume" says what a resumed run does with a setting that differs from its checkpoint's
(`alphamed_nemo/config/resuming.py`): the new value is **taken** and the difference logged, or the resume is **refused**
unless `run.accept_changes` names the setting. Others are not compared. `model.path` and `grpo.questions` are compared
by the contents of the files, and so are the tokenizer (`tokenizer` in `run.accept_changes`), prompt and chat templates
and functions of your own.
"""


def page() -> str:
    """The whole page."""
    hints = get_type_hints(Config)
    groups = [(field.name, hints[field.name]) for field in dataclasses.fields(Config)]
    parts = [HEAD]
    for name, cls in groups:
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            parts.append(_group(name, cls))
    return "\n".join(parts)


def _group(group: str, cls: type) -> str:
    head = inspect.getdoc(cls) or ""
    columns = ["| setting | default | may be | on resume | |", "| --- | --- | --- | --- | --- |"]
    lines = [f"## {group}", "", head, "", *columns]
    comments, hints = dict(_comments(cls)), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        said = comments.get(field.name) or field.metadata.get("because", "")
        name, rule = f"{group}.{field.name}", on_resume(f"{group}.{field.name}")
        may_be = _allowed(hints[field.name], field.metadata)
        cells = (f"`{name}`", _default(field), may_be, "" if rule == "unasked" else rule, said)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if field.name == "dir":
        value = "runs"  # unless ALPHAMED_RUNS names another folder
    if value is None:
        return "null"
    if value in ("", [], {}):
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(hint: Any, metadata: Mapping[str, Any]) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join("null" if part is type(None) else _allowed(part, metadata) for part in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {_allowed(get_args(hint)[0], {})}"
    if get_origin(hint) is dict:
        return f"group, each {metadata[RANGE]}" if RANGE in metadata else "group"
    if get_origin(hint) is Literal:
        choices = ", ".join(choice or "empty" for choice in get_args(hint))
        return f"{choices}, `{metadata['own']}`" if "own" in metadata else choices
    kind = {bool: "true, false", str: "text", int: "integer", float: "number"}[hint]
    return f"{kind}, {metadata[RANGE]}" if RANGE in metadata else kind


def _comments(cls: type) -> Iterator[tuple[str, str]]:
    """(field, comment) of every field of a dataclass that has one on its last line."""
    source = textwrap.dedent(inspect.getsource(cls))
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:")
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in said:
            yield node.target.id, said[node.end_lineno]


if __name__ == "__main__":
    print(page(), end="")
