"""Imports go one way, and what checks a setting imports nothing that takes seconds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "alphamed_nemo"

# From the lowest: a room imports from rooms of the lines before its own only. Recipes import from all.
ORDER = (
    ("access", "config", "devices", "errors", "open_files", "patience", "processor", "quick_imports", "user_code"),
    ("families", "fetch", "run_lock"),
    ("weight_files", "data"),
    ("answers",),
    ("policy", "rewards", "rollout"),
    ("provenance", "clinic"),
    ("evaluation",),
    ("grpo",),
    ("plan",),
    ("export", "report"),
    ("simulate", "study"),
    ("cli",),
    ("launch",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

SLOW = ("torch", "megatron", "nemo", "vllm", "lightning", "transformers", "datasets", "matplotlib")


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, without the package's own."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module, known: set[str]) -> set[str]:
    """The package's modules that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")} & known


def test_no_two_files_of_the_package_have_the_same_name() -> None:
    files = Counter(path.name for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in files.items() if count > 1] == []


def test_every_room_imports_from_rooms_below_it_only() -> None:
    trees = modules()
    wrong = [
        f"{name} imports {other}"
        for name, tree in trees.items()
        for other in imported(tree, set(trees))
        if (room := name.split(".")[0]) != (below := other.split(".")[0]) and LEVEL[below] >= LEVEL[room]
    ]
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    trees = modules()
    packages = {name for name in trees if any(other.startswith(f"{name}.") for other in trees)}
    graph = {name: imported(tree, set(trees) - packages) for name, tree in trees.items() if name not in packages}
    assert set(TopologicalSorter(graph).static_order()) == set(graph)  # a CycleError names the circle


def run_recipe(*arguments: str) -> tuple[int, str, list[str]]:
    """Status, errors and the slow packages that were imported, of a recipe that ends before it does anything."""
    program = (
        "import json, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, 'recipes')\n"  # as for a script that is run
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(json.dumps({'status': end.code, 'modules': list(sys.modules)}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["status"], done.stderr, [name for name in SLOW if name in found["modules"]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.stepz=4", "the nearest one is 'grpo.steps'"),
        ("grpo.advantage=group_sd", "expected one of group_std"),
        ("grpo.steps=0", "expected at least 1"),
        ("grpo.correction_low=2", "found 2.0, expected at least 0, below 1"),
        ("model.path=/nowhere", "no folder '/nowhere'"),
    ],
)
def test_a_wrong_setting_is_found_without_torch(override: str, message: str, tmp_path: Path) -> None:
    status, errors, slow = run_recipe("recipes/train_grpo.py", override, f"run.dir={tmp_path}")
    assert status == 2 and message in errors
    assert not slow


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.py")))
def test_every_recipe_hears_of_a_typing_error_without_torch(recipe: str) -> None:
    status, errors, slow = run_recipe(f"recipes/{recipe}", "run.nmae=mine")
    assert status == 2 and "the nearest one is 'run.name'" in errors
    assert not slow
