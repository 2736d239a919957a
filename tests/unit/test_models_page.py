"""docs/models.md: each preset's row against its settings, its model's dimensions and the plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alphamed_nemo.cli.arguments import CONF
from alphamed_nemo.cli.derived import fill_lengths
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.plan.prediction import make_plan
from alphamed_nemo.plan.sizes import load_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}  # size → model, parameters, licence, tied, thinking, layout, nodes of H100 and of H200


def preset(size: str, *overrides: str) -> Config:
    cfg = composed("plan", [f"experiment=grpo_{size}", *overrides])
    settle_dtypes(cfg, cuda=True)
    fill_lengths(cfg)
    return cfg


def test_every_preset_has_a_row() -> None:
    assert set(ROWS) == {path.stem.removeprefix("grpo_") for path in CONF.glob("experiment/grpo_*.yaml")}


@pytest.mark.parametrize("size", ROWS)
def test_a_row_says_what_model_it_is_and_how_it_is_laid_out(size: str) -> None:
    name, parameters, _, tied, thinking, layout, *_ = ROWS[size]
    cfg, model = preset(size), load_model(name)
    assert Path(cfg.model.path).name == name
    assert f"{model.parameters / 1e9:.3g} billion" == parameters
    assert tied == ("yes" if model.tied else "no")
    assert cfg.data.thinking is {"off": False, "on": True, "no": None}[thinking]
    assert (thinking != "no") == name.startswith("Qwen3")
    assert layout == f"{cfg.parallel.tensor} × {cfg.parallel.pipeline} × {cfg.parallel.data}"


@pytest.mark.parametrize(("card", "column"), [("h100", -2), ("h200", -1)])
@pytest.mark.parametrize("size", ROWS)
def test_the_nodes_of_a_row_are_enough(size: str, card: str, column: int) -> None:
    for choice in ROWS[size][column].split(", or "):
        nodes, changes = re.fullmatch(r"(\d+)(?: with `(.*)`)?", choice).groups()
        plan = make_plan(preset(size, f"plan.gpu={card}", *(changes or "").split()))
        assert plan.fits, plan.problems
        assert plan.cluster.nodes == int(nodes)
