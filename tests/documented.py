"""What the documents say: command lines, fenced examples and settings, each with its file and line."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("alphamed_nemo/assets/*/README.md"))]
SHELL = [*sorted(ROOT.glob("slurm/*.sh")), ROOT / "slurm" / "site.env.example", *sorted(ROOT.glob("conf/**/*.yaml"))]
PYTHON = [
    path
    for folder in ("recipes", "alphamed_nemo", "benchmarks", "examples", "tests")
    for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
]

# How a command begins: alone on its line, or in backticks.
START = re.compile(
    r"(?:[A-Z_]+=\S+ |[A-Z_]+=\"[^\"]*\" )*"
    r"(?:\./run|python -m|python recipes/|sbatch|slurm/\w+\.sh|cp|docker|enroot)(?: |$|(?<=/))"
)
# What looks like one wherever it stands, so that none is overlooked.
ANYWHERE = re.compile(
    r"\./run [a-z<]|python -m [a-z]|python recipes/|sbatch [-a-z]+[/=]|slurm/(?!common|supervise)\w+\.sh [-\w]"
)


@dataclass(frozen=True)
class Command:
    """A command line as it is written, without its comment."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line."""

    file: str
    line: int
    language: str
    lines: tuple[str, ...]


def commands() -> list[Command]:
    """Every documented command line."""
    found: list[Command] = []
    for path in MARKDOWN:
        found += markdown_commands(path)
    for path in (*SHELL, *PYTHON, ROOT / "run"):
        found += text_commands(path)
    return found


def overlooked(found: list[Command]) -> list[str]:
    """Where a command seems to stand that `found` lacks: it belongs on a line of its own, or in backticks."""
    known: dict[tuple[str, int], list[str]] = {}
    for command in found:
        known.setdefault((command.file, command.line), []).append(command.text)
    texts = [(path, list(enumerate(path.read_text().splitlines(), 1))) for path in MARKDOWN]
    texts += [(path, list(prose(path))) for path in (*SHELL, *PYTHON, ROOT / "run")]
    places = []
    for path, lines in texts:
        for number, line in lines:
            texts_here = known.get((name(path), number), [])
            if any(without_comment(line.rstrip("\\")) in text for text in texts_here if line.strip()):
                continue  # the line is the command
            rest = re.sub(r"`[^`]+`", "", line) if texts_here else line
            if ANYWHERE.search(rest):
                places.append(f"{name(path)}:{number}: {line.strip()}")
    return places


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file."""
    opened: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```") and opened is None:
            opened, lines = (number + 1, line[3:].strip()), []
        elif line.strip() == "```" and opened is not None:
            yield Block(name(path), *opened, tuple(lines))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{name(path)}:{opened[0] - 1}: a fence that is not closed"


def outside_blocks(path: Path) -> str:
    """The text with empty lines in place of fenced blocks and their fences."""
    lines = path.read_text().splitlines()
    for block in blocks(path):
        for number in range(block.line - 1, block.line + len(block.lines) + 1):
            lines[number - 1] = ""
    return "\n".join(lines)


def spans(path: Path) -> Iterator[tuple[int, str]]:
    """Inline code with its line."""
    text = outside_blocks(path)
    for match in re.finditer(r"`([^`]+)`", text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def markdown_commands(path: Path) -> Iterator[Command]:
    for block in blocks(path):
        if block.language in ("", "bash", "sh", "console") and not any("─" in line for line in block.lines):
            for offset, line in continued(enumerate(block.lines)):  # every line: one that is no command fails its test
                if line.strip():
                    yield Command(block.file, block.line + offset, without_comment(line))
                yield from inline(block.file, block.line + offset, line)
    for number, line in enumerate(outside_blocks(path).splitlines(), 1):
        if re.match(r" {4,}", line) and START.match(line.strip()):
            yield Command(name(path), number, without_comment(line))
    for number, span in spans(path):
        if is_command(span):
            yield Command(name(path), number, span)


def text_commands(path: Path) -> Iterator[Command]:
    """Of comments and module docstrings: a line that begins as one, and what stands in backticks."""
    for number, line in continued(prose(path)):
        if START.match(line.strip()) and " " in line.strip():
            yield Command(name(path), number, without_comment(line))
            line = line.partition(" #")[2]
        yield from inline(name(path), number, line)


def inline(file: str, number: int, line: str) -> Iterator[Command]:
    for match in re.finditer(r"`([^`]+)`", line):
        if is_command(match[1]):
            yield Command(file, number, match[1])


def continued(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Joins a line that ends in a backslash with the next; the number is the first one's."""
    first, begun = 0, ""
    for number, line in lines:
        first, begun = (first, f"{begun} {line.strip()}") if begun else (number, line)
        if begun.endswith("\\"):
            begun = begun[:-1].rstrip()
            continue
        yield first, begun
        begun = ""


def without_comment(line: str) -> str:
    """The command alone, as a shell takes it; one space between words, so that the same command reads the same."""
    return " ".join(re.split(r"(?:^|\s)#", line)[0].split())


def is_command(span: str) -> bool:
    """Whether inline code is a command rather than a file's or a program's name."""
    script = re.fullmatch(r"slurm/\w+\.sh", span)
    if script:  # one without words is a command where it submits itself
        return not (ROOT / span).exists() or "\n#SBATCH" in (ROOT / span).read_text()
    return bool(START.match(span)) and (" " in span or span == "./run")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of what a file says about itself."""
    text = path.read_text()
    if path.suffix == ".py":
        module = ast.parse(text)
        if ast.get_docstring(module) is not None:
            first = module.body[0]
            assert isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            yield from enumerate(str(first.value.value).splitlines(), first.lineno)
    elif path.name == "run":  # what ./run help shows
        lines = text.splitlines()
        start = lines.index("    cat <<'TEXT'") + 1
        yield from enumerate(lines[start : lines.index("TEXT")], start + 1)
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line and not line.startswith(("#!", "#SBATCH ")):
                yield number, line[line.index("#") :].lstrip("# ")


def words(command: Command, placeholders: dict[str, str]) -> list[str]:
    """The command's words as a shell would read them, with placeholders filled in.

    Raises:
        ValueError: something that is still a placeholder.
    """
    text = command.text
    for written in sorted(placeholders, key=len, reverse=True):
        text = text.replace(written, placeholders[written])
    found = shlex.split(text)
    for word in found:
        if re.search(r"<[^>]*>|\.\.\.|…", word) or re.match(r"\[|[^=]*\]$", word):
            raise ValueError(f"{command.place}: {word!r} is a placeholder that the test's table does not have")
    return found
