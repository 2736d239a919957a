"""Every command line that the documents show does what it says: composed and checked, planned, or run.

What really runs: `./run help`, the sbatch scripts (with a stand-in for sbatch that writes down what it is given),
prepare_data, report, plan and the grading of saved responses. The other recipes run as far as their first process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from alphamed_nemo import devices
from alphamed_nemo.cli import arguments
from alphamed_nemo.cli import recipe as recipe_top
from alphamed_nemo.cli.arguments import CONF, check_arguments
from alphamed_nemo.cli.preflight import check_training
from alphamed_nemo.config.files import SECRETS, known_keys, to_config
from alphamed_nemo.data.sources import LOADERS
from alphamed_nemo.launch import slurm
from alphamed_nemo.launch.allocation import Allocation
from alphamed_nemo.rewards.server import parse_arguments
from tests.documented import MARKDOWN, ROOT, Block, Command, blocks, commands, name, overlooked, spans, words
from tests.unit.docs_recipes import RECIPES, check_answers, check_passes, check_recipe, composed
from tests.unit.docs_world import PLACEHOLDERS, add_files, documented_files, documented_path, forget_runs, make_world

COMMANDS = commands()
FIRST = {command.text: command for command in reversed(COMMANDS)}  # each once, where it stands first
BLOCKS = [block for path in MARKDOWN for block in blocks(path)]
SECTIONS = {key.partition(".")[0] for key in known_keys()}
GROUPS = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("world")
    make_world(made)
    return made


@pytest.fixture
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of every command, as it was at first."""
    monkeypatch.chdir(folder)
    for variable in [variable for variable in os.environ if variable.startswith(("ALPHAMED_", "SLURM_"))]:
        monkeypatch.delenv(variable)
    for secret in SECRETS.values():
        monkeypatch.setenv(secret, "key")
    for module in (arguments, recipe_top):
        monkeypatch.setattr(module, "CONF", folder / "conf")  # ours, and what the documents ask a reader to add
    yield folder
    forget_runs(folder)


def test_no_command_stands_where_it_is_not_found() -> None:
    assert overlooked(COMMANDS) == []


@pytest.mark.parametrize("command", list(FIRST.values())[::-1], ids=lambda command: command.place)
def test_a_documented_command_does_what_it_says(
    command: Command, world: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
) -> None:
    asked = words(command, PLACEHOLDERS)
    record_property("command", command.text)
    covered = cover(command, asked, world, monkeypatch)
    record_property("covered", covered)
    assert covered, f"{command.place}: it is not said what was done with it"


def cover(command: Command, asked: list[str], world: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Does what is possible here; returns it in words."""
    program, *rest = asked
    if program == "./run":
        return cover_run(command, rest, monkeypatch)
    if program == "python" and rest[0] == "-m":
        return cover_module(command, rest[1], rest[2:], world, monkeypatch)
    if program == "python":
        return check_recipe(Path(rest[0]).stem, rest[1:], monkeypatch)
    if program == "sbatch":
        return check_job(rest, monkeypatch)
    if program.startswith("slurm/"):
        return cover_script(program, rest, world, monkeypatch)
    if program == "set":  # set -a; source FILE; set +a
        (world / "slurm").mkdir(exist_ok=True)
        shutil.copy(ROOT / "slurm" / "site.env.example", world / "slurm" / "site.env")
        shown = subprocess.run(["bash", "-euc", f"{command.text}; env"], check=True, capture_output=True, text=True)
        assert "ALPHAMED_RUNS=" in shown.stdout and "ALPHAMED_MODELS=" in shown.stdout
        return "run"
    if program == "cp":
        return cover_site(rest[0])
    if program == "git":  # git clone HERE FOLDER && cd FOLDER: the recipes' entry is there
        if not (ROOT / ".git").exists():
            return "not run: this copy of the project is no repository"
        subprocess.run(["bash", "-euc", " ".join(map(shell_word, asked)) + " && test -x run"], check=True)
        return "run"
    if program in ("docker", "enroot"):
        return cover_image(asked)
    if program.startswith("base="):
        assert f"\nARG BASE={program.removeprefix('base=')}\n" in (ROOT / "Dockerfile").read_text()
        return "checked: the Dockerfile's base"
    if program.startswith("digest="):
        return "not run: it asks the registry of the base"
    pytest.fail(f"{command.place}: nothing covers {command.text!r}")


def shell_word(word: str) -> str:
    return word if word == "&&" else shlex.quote(word)


def cover_run(command: Command, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    first, rest = (asked or ["help"])[0], asked[1:]
    if first in RECIPES:
        return check_recipe(first, rest, monkeypatch)
    if first == "help":
        shown = subprocess.run([ROOT / "run", "help"], check=True, capture_output=True, text=True).stdout
        assert all(recipe in shown for recipe in RECIPES)
        return "run"
    if first == "test":
        if rest[:1] == ["nightly"]:
            assert any("pytest.mark.nightly" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
        elif rest and not rest[0].startswith("-"):
            assert list((ROOT / "tests" / rest[0]).glob("test_*.py"))
        return "checked: its folder has tests"
    if first == "bench":
        source = (ROOT / "benchmarks" / "bench.py").read_text()  # whose import takes as long as all of this
        methods = source.partition("class Bench")[2]
        for word in rest:
            found = word in ("--help", "-h") or f'"{word}"' in source or f"    def {word}(self" in methods
            assert found, f"{command.place}: ./run bench has no {word}"
        return "checked: its rows exist"
    if first in ("setup", "check"):
        return "run with stand-ins by test_launch_run_script.py"
    pytest.fail(f"{command.place}: nothing covers {command.text!r}")


def cover_module(command: Command, module: str, rest: list[str], world: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations:
        found = importlib.util.find_spec(f"{module}.__main__")
    assert found is not None and found.origin is not None, f"{command.place}: no module {module}"
    source = Path(found.origin).read_text()
    if module == "pytest":
        assert all(Path(ROOT, word).exists() for word in rest if not word.startswith("-"))
        return "checked: its folder exists"
    assert '__name__ == "__main__"' in source, f"{command.place}: {module} is not run by python -m"
    if module == "alphamed_nemo.launch.slurm":
        return plan_job([*rest], nodes=2, gpus=8, monkeypatch=monkeypatch)
    if module == "alphamed_nemo.rewards.server":
        parse_arguments(rest)
        return "checked by its own parser"
    if module == "benchmarks.method_study":
        from benchmarks.method_study import VARIANTS

        assert len(rest) >= 2 and set(rest[2:]) <= set(VARIANTS)
        return "checked: its variants exist"
    options = [word for word in rest if word.startswith("--")]
    if module != "alphamed_nemo.rollout.inside_vllm.main":  # that one hands everything to vLLM
        assert all(f'"{option}"' in source for option in options), f"{command.place}: {module} has no {options}"
    return "checked: module and options exist"


def cover_script(script: str, rest: list[str], world: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the script; then each job that it would submit."""
    calls = world / "calls"
    calls.unlink(missing_ok=True)
    env = os.environ | {"ALPHAMED_SITE": "none", "ALPHAMED_PYTHON": str(world / "bin" / "python"), "CALLS": str(calls)}
    env["PATH"] = f"{world / 'bin'}:{env['PATH']}"
    done = subprocess.run([ROOT / script, *rest], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "pipeline" in script and "--dry-run" in rest:
        jobs = [shlex.split(line)[1:] for line in done.stderr.splitlines()]
    else:
        jobs = [call.split("\n") for call in calls.read_text().removesuffix("end of call\n").split("end of call\n")]
        jobs = [[word for word in job if word] for job in jobs]
    if jobs[0][:2] == ["-m", "alphamed_nemo.launch.slurm"]:  # a dry run
        stage, named = job_script(script, rest)
        if stage == "run_recipe":
            return "run; " + check_recipe(named, jobs[0][2:], monkeypatch)
        nodes, gpus = job_header(script)
        nodes = size_nodes(rest[0]) if script == "slurm/grpo.sh" else nodes
        return "run; " + plan_job(jobs[0][2:], nodes, gpus, monkeypatch)
    done_of = {check_job(job, monkeypatch) for job in jobs}
    return f"run: {len(jobs)} jobs, " + "; ".join(sorted(done_of))


def job_header(script: str) -> tuple[int, int]:
    """Nodes, GPUs of each."""
    text = (ROOT / script).read_text()
    nodes, gpus = (re.search(rf"^#SBATCH --{key}=(\d+)", text, re.MULTILINE) for key in ("nodes", "gpus-per-node"))
    assert nodes is not None
    return int(nodes[1]), int(gpus[1]) if gpus else 0


def size_nodes(size: str) -> int:
    """Nodes of a size in slurm/sizes."""
    rows = [line.split() for line in (ROOT / "slurm" / "sizes").read_text().splitlines()]
    return next(int(row[1]) for row in rows if row[0] == size)


def job_script(script: str, rest: list[str]) -> tuple[str, str]:
    """What its last line calls: train, train_size or run_recipe, and with which experiment or recipe."""
    found = re.search(r"^(train|train_size|run_recipe) (\S+)", (ROOT / script).read_text(), re.MULTILINE)
    assert found is not None, f"{script} calls neither train nor run_recipe"
    named = rest[0] if found[2] == '"$@"' else found[2]
    return found[1], f"grpo_{named}" if found[1] == "train_size" else named


def check_job(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What sbatch is given: options, script, settings."""
    script, settings = next(word for word in asked if word.startswith("slurm/")), []
    asked_nodes = [int(word.removeprefix("--nodes=")) for word in asked if word.startswith("--nodes=")]
    rest = asked[asked.index(script) + 1 :]
    what, named = job_script(script, rest)
    for word in rest[1:] if script == "slurm/grpo.sh" else rest:
        assert not word.startswith("-"), f"{word} comes after {script}, so that sbatch does not see it"
        settings.append(word)
    if what == "run_recipe":
        return check_recipe(named, settings, monkeypatch)
    if not any(word.startswith("experiment=") for word in settings):
        settings.insert(0, f"experiment={named}")
    header = job_header(script)
    nodes = asked_nodes[-1] if asked_nodes else header[0]
    return plan_job(settings, nodes, header[1], monkeypatch)


def plan_job(settings: list[str], nodes: int, gpus: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Checks and plans a training job as its first step does."""
    cfg = composed("train_grpo", settings)
    check_answers(cfg, "rollout")
    check_passes(cfg, settings)
    cfg.rollout.api_key = cfg.reward.api_key = "key"
    monkeypatch.setattr(devices, "cuda_is_available", lambda: bool(gpus))
    add_files(cfg)
    check_training(cfg)
    allocation = Allocation(tuple(f"n{n}" for n in range(nodes)), gpus, 64, None, 20_000, "1-0")
    shown = slurm.description(cfg, allocation, slurm.plan_training(cfg, allocation))
    assert not gpus or "\n  fits\n" in shown, shown
    return "checked and planned"


def cover_site(example: str) -> str:
    """The example is read by bash, and what it sets is read by somebody."""
    path = ROOT / example
    subprocess.run(["bash", "-eu", path], check=True)
    ours = set(re.findall(r"\bALPHAMED_[A-Z_]+", path.read_text()))
    assert ours and not ours - known_variables()
    return "run: bash reads the file"


def cover_image(asked: list[str]) -> str:
    """The version is the project's, and the build's argument is the Dockerfile's."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert any(word.endswith(f"alphamed-nemo:{version}") for word in asked), f"the project's version is {version}"
    if asked[0] == "docker":
        argument = asked[asked.index("--build-arg") + 1].partition("=")[0]
        assert re.search(rf"^ARG {argument}\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return "checked: version and argument exist (the build is ./run test image)"


def known_variables() -> set[str]:
    """Environment variables that some code reads."""
    files = [*ROOT.glob("slurm/*.sh"), *ROOT.glob("alphamed_nemo/**/*.py"), *ROOT.glob("conf/**/*.yaml")]
    return {found for path in files for found in re.findall(r"\bALPHAMED_[A-Z_]+", path.read_text())}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: f"{b.file}:{b.line}")
def test_a_documented_yaml_example_loads(block: Block, world: Path) -> None:
    if path := documented_path(block):
        _, group, file = path.split("/")
        cfg = composed("train_grpo", [f"{group}={Path(file).stem}"])
    else:
        cfg = to_config(yaml.safe_load("\n".join(block.lines)))
    for key, source in (cfg.sources.train | cfg.sources.evaluation).items():
        assert (source.set or key) in LOADERS


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda b: f"{b.file}:{b.line}")
def test_a_documented_json_example_is_json(block: Block) -> None:
    assert all(isinstance(json.loads(line), dict) for line in block.lines)


@pytest.mark.parametrize("path", MARKDOWN, ids=name)
def test_settings_named_in_the_text_exist(path: Path) -> None:
    settings = []
    for line, span in spans(path):
        for word in span.split() if re.match(r"\+?[a-z_/.]+=", span) else [span]:
            key, _, value = word.partition("=")
            if key.lstrip("+") in GROUPS and value:
                check_arguments([word] if "<" not in value else [])
            elif re.fullmatch(r"\+?[a-z_]+(\.[a-z_0-9]+)+", key) and key.lstrip("+").partition(".")[0] in SECTIONS:
                if key.endswith((".json", ".sh", ".yaml", ".py")):
                    continue
                check_arguments([f"{word}=" if not value else word])
                settings += [word] if value and not re.search(r"[.]{3}|<", value) else []
            assert not re.fullmatch(r"ALPHAMED_[A-Z_]+", key) or key in known_variables(), f"{name(path)}:{line}: {key}"
    composed("train_grpo", settings)


@pytest.mark.parametrize("path", MARKDOWN, ids=name)
def test_files_named_in_the_text_exist(path: Path) -> None:
    roots = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"runs"}
    missing = [
        f"{name(path)}:{line}: {span}"
        for line, span in spans(path)
        if re.fullmatch(r"[\w.\-/]+", span) and span.partition("/")[0] in roots and "/" in span
        if not (ROOT / span).exists() and span not in documented_files()
    ]
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target and not (path.parent / target).exists():
            missing.append(f"{name(path)}: {target}")
    assert missing == []
