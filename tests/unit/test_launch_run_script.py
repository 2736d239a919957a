"""`./run` makes its environment once, whatever is interrupted or runs beside it; Python and pip are stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKERS = "-n 2 --dist loadfile --no-loadscope-reorder"

# `-m venv DIR` makes DIR/bin/python a copy of itself; every pip call and recipe is written to calls.txt, and the pins
# that the nth call reads to calls.txt.<n>.
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
    "--version "*) echo "Python 3.11.7" ;;
    "-c "*) exit 0 ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >>"$CALLS" ;;
    "-m pip")
        echo "pip ${*:8}" >>"$CALLS"
        if [[ ! -d "${*: -1}" ]]; then cat "${*: -1}" >"$CALLS.$(wc -l <"$CALLS")"; fi
        if [[ -n "${BREAK:-}" && "$*" == *"$BREAK"* ]]; then echo "ERROR: no such version" && exit 1; fi
        if [[ -n "${SLOW:-}" && "$*" == *"$SLOW"* ]]; then read -r _ <"$HANGING"; fi
        if [[ -n "${HANG:-}" && "$*" == *"$HANG"* ]]; then echo hanging >"$HANGING" && exec sleep 60; fi
        ;;
    *) echo "ran $*" >>"$CALLS"; if [[ "$*" == *"${FAILS:-}"* ]]; then echo "of $2"; exit "${STATUS:-0}"; fi ;;
esac
"""


class Clone:
    """A folder with the script and its pins, and a PATH with the stand-in in front."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls_file = root / "clone", root / "calls.txt"
        (self.root / "requirements").mkdir(parents=True)
        (self.root / "recipes").mkdir()
        (self.root / "recipes" / "quickstart.py").write_text('r"""The whole recipe.\n\nMore of it.\n"""\n')
        shutil.copy(ROOT / "run", self.root)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        shutil.copy(ROOT / "requirements" / "cpu.lock", self.root / "requirements")
        self.bin = root / "bin"
        self.bin.mkdir()
        self.add_python("python3.11", PYTHON)
        self.env = os.environ | {"PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls_file)}
        self.env.pop("PYTHON", None)

    def add_python(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["./run", *arguments],
            cwd=self.root,
            env=self.env | env,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        calls = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return calls

    def pins(self, call: int) -> str:
        """What was in the file of pins that this call, counted from 1, named."""
        return Path(f"{self.calls_file}.{call}").read_text()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_first_run_installs_the_lock_by_its_hashes_then_torch_then_the_project(clone: Clone) -> None:
    status, out, err = clone.run("setup")
    assert (status, err) == (0, "")
    assert all(line.startswith("setup: ") for line in out.splitlines())
    calls = clone.calls()
    assert calls[0] == "venv" and len(calls) == 5
    lock = clone.root / "requirements" / "cpu.lock"
    assert calls[1].startswith("pip --no-deps --require-hashes --requirement /dev/fd/")
    assert re.findall(r"^[\w.]+(?===)", clone.pins(2), re.MULTILINE) == ["pip", "setuptools"]
    assert clone.pins(2).count("--hash=sha256:") == 2
    assert calls[2] == f"pip --no-deps --require-hashes --no-build-isolation --requirement {lock}"
    assert calls[3].startswith("pip torch==2.13.0 --constraint /dev/fd/")
    assert clone.pins(4) == re.sub(r" \\\n +--hash=\S+", "", lock.read_text())
    assert calls[4] == f"pip --no-deps --no-build-isolation --editable {clone.root}"


def test_the_environment_is_reused_while_the_pins_stay(clone: Clone) -> None:
    clone.run("setup")
    clone.calls()
    assert clone.run("setup") == (0, "", "")
    assert clone.calls() == []


def test_other_pins_make_a_new_environment(clone: Clone) -> None:
    clone.run("setup")
    clone.calls()
    with (clone.root / "requirements" / "cpu.lock").open("a") as lock:
        lock.write("another==1.0\n")
    assert clone.run("setup")[0] == 0
    assert len(clone.calls()) == 5


def test_another_pyproject_installs_the_project_alone(clone: Clone) -> None:
    clone.run("setup")
    clone.calls()
    with (clone.root / "pyproject.toml").open("a") as project:
        project.write("\n")
    assert clone.run("setup")[0] == 0
    assert clone.calls() == [f"pip --no-deps --no-build-isolation --editable {clone.root}"]


def test_a_moved_clone_makes_a_new_environment(clone: Clone, tmp_path: Path) -> None:
    clone.run("setup")
    clone.calls()
    clone.root = clone.root.rename(tmp_path / "elsewhere")
    assert clone.run("setup")[0] == 0
    assert clone.calls()[0] == "venv"


def test_a_failed_install_is_told_in_pips_words_and_redone(clone: Clone) -> None:
    status, _, err = clone.run("setup", BREAK="--requirement")
    assert status == 1
    assert err.startswith("ERROR: no such version\nerror: could not install ")
    clone.calls()
    assert clone.run("setup")[0] == 0
    assert len(clone.calls()) == 5


def test_an_interrupted_setup_is_redone(clone: Clone, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    os.mkfifo(hanging)
    process = clone.start("setup", HANG="torch==", HANGING=str(hanging))
    assert hanging.read_text() == "hanging\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    clone.calls()
    assert clone.run("setup")[0] == 0
    assert len(clone.calls()) == 5


def test_setup_says_what_it_takes_and_that_it_goes_on(clone: Clone, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    os.mkfifo(hanging)
    process = clone.start("setup", SLOW="torch==", HANGING=str(hanging), ALPHAMED_TELL_EVERY_S="0.1")
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()
    assert first.startswith("setup: making the Python environment in .venv (Python 3.11.7), once: 4 GB of disk, and")
    told = [next(line for line in process.stdout if "still installing torch" in line) for _ in range(2)]
    hanging.write_text("go on\n")
    rest = process.stdout.read()
    assert process.wait() == 0 and process.stderr.read() == ""
    still = r"setup: still installing torch 2\.13\.0: \d+ s, \.venv has [\d.]+K\n"
    assert all(re.fullmatch(still, line) for line in told)
    assert rest.splitlines()[-1].startswith("setup: done in ") and "\r" not in rest


def test_too_little_disk_is_said_before_anything_is_made(clone: Clone) -> None:
    clone.add_python("df", "#!/bin/sh\necho Avail\necho 1900000\n")
    status, _, err = clone.run("setup")
    assert (status, err) == (1, f"error: {clone.root} has 1 GB of free disk; the environment takes 4 GB\n")
    assert clone.calls() == []


def test_concurrent_first_runs_make_one_environment(clone: Clone) -> None:
    processes = [clone.start("quickstart", f"run.seed={seed}") for seed in range(4)]
    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0] * 4
    calls = clone.calls()
    assert calls.count("venv") == 1
    assert sorted(call for call in calls if call.startswith("ran")) == [
        f"ran recipes/quickstart.py run.seed={seed}" for seed in range(4)
    ]


def test_the_status_of_a_recipe_and_of_the_tests_is_passed_on(clone: Clone) -> None:
    assert clone.run("quickstart", STATUS="2")[0] == 2
    assert clone.run("test", STATUS="5")[0] == 5


@pytest.mark.parametrize(
    ("arguments", "pytest_arguments"),
    [
        ([], f"not nightly {WORKERS} tests/unit tests/integration tests/real tests/gpu"),
        (["unit"], f"not nightly {WORKERS} tests/unit"),
        (["integration", "-x"], f"not nightly {WORKERS} tests/integration -x"),
        (["integration", "real", "-x"], f"not nightly {WORKERS} tests/integration tests/real -x"),
        (["slurm"], "not nightly tests/slurm"),
        (["image", "-s"], "not nightly tests/image -s"),
        (["audit"], "not nightly tests/audit"),
        (["nightly"], "nightly tests/unit tests/integration tests/real tests/slurm"),
        (["unit", "-k", "launch"], f"not nightly {WORKERS} tests/unit -k launch"),
    ],
)
def test_test_chooses_the_folders(clone: Clone, arguments: list[str], pytest_arguments: str) -> None:
    assert clone.run("test", *arguments)[0] == 0
    assert clone.calls()[-1] == f"ran -m pytest -m {pytest_arguments}"


def test_check_ends_at_once_where_lint_fails_and_checks_types_beside_the_tests(clone: Clone) -> None:
    assert clone.run("check", "-x")[0] == 0
    ran = [call.split() for call in clone.calls() if call.startswith("ran -m")]
    assert [call[2] for call in ran[:2]] == ["ruff", "ruff"]
    assert sorted(call[2] for call in ran[2:]) == ["basedpyright", "pytest"]
    assert ["tests/unit", "-x"] in [call[-2:] for call in ran]
    assert clone.run("check", STATUS="3")[0] == 3
    assert [call.split()[2] for call in clone.calls()] == ["ruff"]


@pytest.mark.parametrize("fails", ["basedpyright", "pytest"])
def test_check_fails_where_the_types_or_the_tests_fail_and_shows_both(clone: Clone, fails: str) -> None:
    status, out, _ = clone.run("check", STATUS="3", FAILS=fails)
    assert status != 0 and f"of {fails}" in out
    assert {"basedpyright", "pytest"} <= {call.split()[2] for call in clone.calls() if call.startswith("ran")}


def test_bench_passes_its_rows_on(clone: Clone) -> None:
    assert clone.run("bench", "reward", "--repeats", "3")[0] == 0
    assert clone.calls()[-1] == "ran -m benchmarks.bench reward --repeats 3"


def test_an_unknown_recipe_is_refused_before_anything_is_installed(clone: Clone) -> None:
    clone.env["PATH"] = (
        f"{os.path.dirname(sys.executable)}:{clone.env['PATH']}"  # a python3 that is none of the stand-ins
    )
    for typed, near in (("quickstrat", "quickstart"), ("chekc", "check"), ("halp", "help")):
        said = f"error: no recipe or command '{typed}'; did you mean ./run {near}?; ./run help lists them\n"
        assert clone.run(typed) == (2, "", said)
    assert clone.run("zzzz") == (2, "", "error: no recipe or command 'zzzz'; ./run help lists them\n")
    assert clone.calls() == []


def test_help_lists_the_recipes_and_installs_nothing(clone: Clone) -> None:
    status, out, _ = clone.run()
    assert status == 0 and "\nquickstart        The whole recipe.\n" in out
    assert clone.run("help")[1] == out and clone.calls() == []


def test_an_interpreter_that_does_not_run_is_passed_over(clone: Clone) -> None:
    clone.add_python("python3.12", PYTHON)
    clone.add_python("python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    assert clone.run("setup")[0] == 0
    assert clone.calls()[0] == "venv"


def test_no_usable_python_is_said_clearly(clone: Clone) -> None:
    status, _, err = clone.run("setup", PYTHON="/nowhere/python3.11")
    assert status == 1
    assert err.startswith("error: Python 3.11 or 3.12 is needed and none of /nowhere/python3.11 is one; install it")
