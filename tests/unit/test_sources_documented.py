"""The examples of docs/data.md, copied from the page as a reader would: every file where it says, every command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from alphamed_nemo.cli import arguments, recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.limits import check_values
from alphamed_nemo.config.run_folder import fill_paths
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.sources import LOADERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
OWN = re.findall(
    r"^```(\w+)\n(.*?)^```", PAGE.split("\n## Your own questions\n")[1].split("\n## ")[0], re.MULTILINE | re.DOTALL
)
FILES = {re.search(r"^# (conf/\S+)\n", text, re.MULTILINE)[1]: text for kind, text in BLOCKS if kind == "yaml"}
SETS = [name for name in FILES if name.startswith("conf/sources/")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of which only conf/ matters, as the working directory."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for module in (arguments, recipe):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_prepare_data(command: str) -> Config:
    """What `./run prepare_data ...` does, in this process."""
    program, name, *overrides = shlex.split(command)
    assert (program, name) == ("./run", "prepare_data")
    arguments.check_arguments(overrides)
    cfg = recipe.composed(name, overrides)
    check_values(cfg)
    return fill_paths(cfg)


def commands() -> list[str]:
    lines = [line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    return [line for line in lines if line.startswith("./run prepare_data")]


def test_every_file_of_the_page_is_a_set_of_sources_that_a_command_of_it_names() -> None:
    assert set(SETS) == {"conf/sources/mine.yaml", "conf/sources/ward.yaml"}
    for name in SETS:
        assert any(f"sources={Path(name).stem}" in command for command in commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_composes(project: Path, command: str) -> None:
    cfg = run_prepare_data(command)
    assert cfg.data.source == "sources" and (cfg.sources.train or cfg.sources.evaluation)
    for name, source in (cfg.sources.train | cfg.sources.evaluation).items():
        assert (source.set or name) in LOADERS


def test_the_readers_own_questions_become_a_run(project: Path) -> None:
    """Steps 1 to 3 of the page, to the files that it promises."""
    import prepare_data

    questions, sources, command, experiment = (text for _, text in OWN[:4])
    assert [kind for kind, _ in OWN] == ["json", "yaml", "bash", "yaml", "bash", "bash"]
    assert (sources, experiment) == (FILES["conf/sources/ward.yaml"], FILES["conf/experiment/ward.yaml"])
    (project / "my_questions.jsonl").write_text(questions, encoding="utf-8")
    prepare_data.prepare_data(run_prepare_data(command))

    run = project / "runs" / "ward" / "data"
    train, heldout = read_questions(run / "train.jsonl"), read_questions(run / "heldout.jsonl")
    assert (len(train), len(heldout)) == (4, 1)
    keys = {question.id: question.answer_text for question in (*train, *heldout)}
    assert keys == {
        "ward-q1": "Vitamin C",
        "ward-q2": "Pancreas",
        "ward-q3": "Calcium",
        "ward-q4": "yes",
        "ward-q5": "Mitral",
    }
    report = json.loads((run / "prepared" / "report.json").read_text())
    assert [(item["role"], item["questions"], item["heldout"]) for item in report["sets"]] == [
        ("train", 4, 1),
        ("evaluation", 1, 0),
    ]


def test_a_source_on_the_command_line_joins_and_old_evaluation_files_do_not(project: Path) -> None:
    import prepare_data

    rows = [{"question": f"Which of {n}?", "options": ["Iron", "Zinc"], "answer": "AB"[n % 2]} for n in range(4)]
    (project / "my_questions.jsonl").write_text(OWN[0][1], encoding="utf-8")
    (project / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = re.search(r"'\+sources\.train\.mine=[^']*'", PAGE)[0]
    prepare_data.prepare_data(run_prepare_data(f"{OWN[2][1].strip()} {extra}"))
    run = project / "runs" / "ward" / "data"
    assert {question.dataset for question in read_questions(run / "train.jsonl")} == {"ward", "mine"}
    assert {question.dataset for question in read_questions(run / "heldout.jsonl")} == {"ward"}

    only = f"./run prepare_data run.name=ward data.source=sources {extra}"
    prepare_data.prepare_data(run_prepare_data(only))
    assert {question.dataset for question in read_questions(run / "train.jsonl")} == {"mine"}
    assert read_questions(run / "heldout.jsonl") == []


def test_the_medical_bank_is_prepared_whole(project: Path) -> None:
    import prepare_data

    from alphamed_nemo.data.medical_bank import medical_bank

    cfg = run_prepare_data("./run prepare_data run.name=bank data.source=medical_bank")
    prepare_data.prepare_data(cfg)
    assert (read_questions(cfg.data.train), read_questions(cfg.data.heldout)) == medical_bank()
