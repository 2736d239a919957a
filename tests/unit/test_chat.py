"""Talking to a model: what is typed is answered, and an empty line asks a held-out question."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from tests.documented import ROOT

sys.path.append(str(ROOT / "recipes"))
from chat import chat  # noqa: E402

TINY = ROOT / "alphamed_nemo" / "assets" / "tiny_base"


class Terminal(Console):
    """Types these lines, then says end of file."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(width=200)
        self.lines: Iterator[str] = iter(lines)

    def input(self, *_: object, **__: object) -> str:
        for line in self.lines:
            return line
        raise EOFError


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Of a run whose trained model is the tiny base."""
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.data.prompt = str(tmp_path), "mine", "tiny"
    cfg.evaluate.model, cfg.rollout.max_new_tokens = str(TINY), 12
    fill_derived(cfg)
    write_config(cfg, RunFolder.of(cfg).config)
    return cfg


def test_it_answers_and_asks(cfg: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (question,) = embedded_bank(1, 1)[1]
    write_questions([question], cfg.data.heldout)
    terminal = Terminal(["", "Which drug?", "", "exit", "not asked"])
    chat(cfg, terminal)
    assert next(terminal.lines) == "not asked"
    shown = capsys.readouterr().out
    assert question.stem in shown and f"Correct: {question.answer}, {question.answer_text}" in shown
    assert shown.startswith(f"loading PyTorch and {TINY} …\n")  # before the seconds that they take
    assert shown.count("\n") > 6 and shown.count("Type a question") == 2  # at first, and when none is left


def test_before_any_run_it_says_what_trains_a_model(cfg: Config, tmp_path: Path) -> None:
    cfg.run.dir, cfg.run.name = str(tmp_path), "quickstart"
    cfg.evaluate.model = str(RunFolder.of(cfg).hf)
    with pytest.raises(
        ValueError, match=r"there is no trained model in .*/quickstart/hf yet: ./run quickstart trains one"
    ):
        chat(cfg, Terminal([]))


def test_a_folder_that_is_not_there_is_refused(cfg: Config) -> None:
    cfg.evaluate.model = "/nowhere"
    with pytest.raises(ValueError, match="evaluate.model: no folder"):
        chat(cfg, Terminal([]))
