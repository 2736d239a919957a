"""Whatever writes a file says which one, where the disk is full: in one line, and what to do."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.private import write_private
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.statistics import count_words, describe, write_statistics
from alphamed_nemo.errors import one_line
from alphamed_nemo.evaluation.journal import Journal
from alphamed_nemo.report.html import build_report

PACKAGE = Path(__file__).resolve().parents[2] / "alphamed_nemo"
WRITES = {"write_text", "write_bytes", "writelines", "save_file", "save_pretrained", "write_table", "copyfile"}
NAMES_ITS_FILE = {"writing", "whole_file"}
ELSEWHERE = {"launch/local.py"}  # opens logs for others to write


def unnamed_writes(path: Path) -> Iterator[int]:
    """Lines that write to a file outside of a block that names it."""

    def visit(node: ast.AST, named: bool) -> Iterator[int]:
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            named = named or any(getattr(call.func, "id", "") in NAMES_ITS_FILE for call in calls)
        if isinstance(node, ast.Call) and not named:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [value.value for value in node.args if isinstance(value, ast.Constant)]
            opens = name == "open" and any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)
            ours = ast.unparse(node.func) in ("write_text", "write_bytes", "manifest.write_bytes")
            if opens or (name in WRITES and not ours):
                yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, named)

    yield from visit(ast.parse(path.read_text()), False)


def test_every_write_of_the_package_names_its_file() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert [f"{name}:{line}" for name in files.keys() - ELSEWHERE for line in unnamed_writes(files[name])] == []


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a disk that is full."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    (folder / "filled").mkdir()
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    yield folder / "filled"
    subprocess.run(["umount", "--lazy", folder], check=True)


QUESTIONS = [Question(f"q{n}", "clinic", "stem", ("one", "two"), "A") for n in range(3)]
STATISTICS = [describe("clinic", "train", QUESTIONS, count_words)]


def append_to_journal(folder: Path) -> None:
    with Journal(folder / "parts.jsonl", {}) as journal:
        journal.append({"id": "a"})


def write_report(folder: Path) -> None:
    metrics = folder / "metrics.jsonl"
    metrics.symlink_to(folder.parents[1] / "metrics.jsonl")
    metrics.resolve().write_text('{"step": 1, "reward/mean": 0.5}\n')
    build_report(folder)


def write_weights(folder: Path) -> None:
    import torch

    from alphamed_nemo.export.shards import write_shards

    write_shards([("w", torch.zeros(4096))], {"w": (4096,)}, folder, torch.float32, 1.0)


def save_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    with writing(folder / "model.safetensors"):
        save_file({"w": torch.zeros(4096)}, folder / "model.safetensors")


def write_state(folder: Path) -> None:
    from alphamed_nemo.policy.checkpoint import manifest

    manifest.write_bytes(folder / "state.json", b"{}")


def write_tokenizer(folder: Path) -> None:
    from alphamed_nemo.clinic.tokenizer import save_tokenizer

    save_tokenizer(folder)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda folder: write_questions(QUESTIONS, folder / "train.jsonl"), "train.jsonl"),
        (lambda folder: write_questions(QUESTIONS, folder / "train.parquet"), "train.parquet"),
        (append_to_journal, "parts.jsonl"),
        (lambda folder: write_private(folder / "vllm.sh", "#!"), "vllm.sh"),
        (lambda folder: write_config(Config(), folder / "config.yaml"), "config.yaml"),
        (lambda folder: write_statistics(folder, STATISTICS, "characters"), "statistics.json"),
        (lambda folder: shutil.copyfile(PACKAGE / "errors.py", folder / "copy"), "copy"),
        (lambda folder: shutil.copytree(PACKAGE / "config", folder / "config"), "config"),
        (write_report, "report"),
        (write_weights, "model.safetensors"),
        (save_weights, "model.safetensors"),
        (write_state, "state.json"),
        (write_tokenizer, "tokenizer.json"),
    ],
)
def test_a_full_disk_is_one_line_with_the_file_and_what_to_do(full: Path, write: Callable, name: str) -> None:
    with pytest.raises(OSError) as caught:
        write(full)
    said = one_line(caught.value)
    assert re.match(rf"{full}/{name}[^:]*: .*No space left on device", said), said
    assert said.endswith("; free disk space there, then run the same command again") and "\n" not in said
