"""What a recipe makes of its command line, its environment, and errors of the system."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from alphamed_nemo.cli.arguments import CONF, HYDRA, overrides_first, quoted
from alphamed_nemo.cli.recipe import RANKS, composed, forget_ranks, guarded
from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.errors import one_line
from alphamed_nemo.evaluation.journal import Journal
from alphamed_nemo.report.html import build_report

ROOT = CONF.parent
ODD = ["/a b", "/a,b", "/x=y", "/it's", 'say "x"', "/Übung/été", "/(b)[c]{d}", "end\\", "a\\'b", "x:y", "50%", "a # b"]
ODD += ["!x", "$HOME/x", "a;b", "007", "1e-6", "true", "~/runs", "*", "@x", "a\\\\'"]


@pytest.mark.parametrize("value", ODD)
def test_text_reaches_a_setting_as_it_was_typed(value: str) -> None:
    cfg = composed("train_grpo", quoted([f"run.dir={value}", "grpo.steps=7", f"run.name={value}"]))
    assert (cfg.run.dir, cfg.run.name, cfg.grpo.steps) == (value, value, 7)


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("evaluate.label='a,b'", "label", "a,b"),
        ('evaluate.label="a b"', "label", "a b"),
        ("evaluate.label=${run.name}", "label", "run"),
        ("evaluate.label=null", "label", ""),
        ("evaluate.label=", "label", ""),
        ("evaluate.against=[a,b]", "against", ["a", "b"]),
    ],
)
def test_quotes_and_references_of_the_users_own_are_left_to_hydra(argument: str, key: str, expected: object) -> None:
    assert getattr(composed("evaluate", quoted([argument])).evaluate, key) == expected


@pytest.mark.parametrize(
    "words", ["experiment=tiny --cfg job", "--cfg job experiment=tiny", "experiment=tiny --cfg job run.seed=3"]
)
def test_the_composed_settings_are_shown_whatever_the_order_of_arguments(words: str) -> None:
    recipe = [sys.executable, "recipes/train_grpo.py", *words.split(), "run.name=shown"]
    done = subprocess.run(recipe, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["run"]["name"] == "shown" and shown["grpo"]["questions_per_step"] == 32


def test_help_says_what_a_recipe_does_and_where_its_settings_are() -> None:
    done = subprocess.run(
        [sys.executable, "recipes/plan.py", "-h"], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first = (ROOT / "recipes" / "plan.py").read_text().splitlines()[0].removeprefix('"""')
    assert done.stdout.startswith(first) and "./run plan --cfg job" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_a_recipes_settings_are_found_by_its_name(path: Path) -> None:
    assert f'@recipe("{path.stem}"' in path.read_text() and (CONF / f"{path.stem}.yaml").is_file()


def test_settings_come_first_and_options_keep_their_values() -> None:
    given = ["--info", "+a.b=1", "--cfg", "job", "~sources", "grpo.steps=3", "--package=x=y"]
    assert overrides_first(given) == [
        "+a.b=1",
        "~sources",
        "grpo.steps=3",
        *HYDRA,
        "--info",
        "--cfg",
        "job",
        "--package=x=y",
    ]


def test_a_recipe_is_one_process_whatever_the_shell_says_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name in RANKS:
        monkeypatch.setenv(name, "2")
    forget_ranks()
    assert not set(RANKS) & os.environ.keys()


def test_a_recipe_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for size in ("1", "4"):
        for name in RANKS:
            monkeypatch.setenv(name, size)
        if size == "1":
            forget_ranks()
            continue
        with pytest.raises(ValueError, match=r"^torchrun has started 4 processes of this recipe.*parallel\.tensor"):
            forget_ranks()


def values(tmp_path: Path) -> DictConfig:
    return OmegaConf.create({"run": {"dir": str(tmp_path)}})


@pytest.mark.parametrize(
    ("fails", "status", "reason"),
    [
        (lambda path: (path / "nosuch").read_text(), 2, "No such file or directory"),
        (lambda path: path.read_text(), 2, "Is a directory"),
        (lambda path: (path / "file" / "below").write_text(""), 2, "Not a directory"),
        (lambda path: (path / ("x" * 300)).write_text(""), 1, "File name too long"),
    ],
)
def test_an_error_of_the_system_is_one_line_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture, fails: Callable[[Path], object], status: int, reason: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        guarded(lambda _cfg: fails(tmp_path), values(tmp_path))
    said = capsys.readouterr().err
    assert ended.value.code == status
    assert said.startswith(f"error: {tmp_path}") and said.endswith(f": {reason}\n") and said.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_names_the_file_that_was_being_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = Path("/dev/full")

    def main(_cfg: Config) -> None:
        with writing(path), path.open("w") as file:
            file.write("row\n")

    with pytest.raises(SystemExit) as ended:
        guarded(main, values(tmp_path))
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: /dev/full: No space left on device; free disk space there, then run the same command again\n"
    )


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 200 bytes; of this process, whose test report may be such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


QUESTIONS = [Question(f"q{n}", "clinic", "stem " * 20, ("one", "two"), "A") for n in range(3)]


def write_journal(folder: Path) -> None:
    with Journal(folder / "parts.jsonl", {}) as journal:
        journal.append({"id": "a", "responses": ["word " * 100]})


def write_page(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    build_report(folder)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_journal, "parts.jsonl"),
        (lambda folder: write_questions(QUESTIONS, folder / "train.jsonl"), "train.jsonl"),
        (write_page, "report"),
    ],
)
def test_what_writes_a_file_of_a_run_says_which_when_it_is_full(
    tmp_path: Path, write: Callable[[Path], object], name: str
) -> None:
    with pytest.raises(OSError, match="File too large") as caught, full_disk():
        write(tmp_path)
    assert one_line(caught.value).startswith(f"{tmp_path}/{name}")


def test_an_error_says_its_first_line() -> None:
    assert one_line(RuntimeError("bad\nmore")) == "bad"
    assert one_line(RuntimeError()) == "RuntimeError"
    assert one_line(OSError(errno.EPIPE, "Broken pipe")) == "Broken pipe"
