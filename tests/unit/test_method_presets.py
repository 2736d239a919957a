"""A method's preset sets what its paper sets, whatever experiment it goes with, and docs/method.md says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphamed_nemo.cli.recipe import composed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"
EXPERIMENTS = ("tiny", "smollm2", "grpo_8b", "grpo_70b")


def documented() -> dict[str, dict[str, object]]:
    """The page's table: by method and key, a word or the numbers that are written there."""
    lines = PAGE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| key of `grpo`"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:] if line.startswith("|")]
    end = next((n for n, line in enumerate(lines[start:]) if not line.startswith("|")), len(rows))
    header, _, *body = rows[:end]
    methods = [name.strip("`") for name in header[1:]]
    return {method: {row[0]: value_of(row[1 + place]) for row in body} for place, method in enumerate(methods)}


def value_of(cell: str) -> object:
    """ "0.2 / 0.28" as two numbers, "0" as one, "no" as it is."""
    try:
        return [float(number) for number in cell.split(" / ")]
    except ValueError:
        return cell


TABLE = documented()


def composed_values(method: str, experiment: str) -> dict[str, object]:
    """What the composed settings are, by the page's keys."""
    preset = [] if method.startswith("none") else [f"method={method}"]
    grpo = composed("train_grpo", [f"experiment={experiment}", *preset]).grpo
    return {
        "`advantage`": grpo.advantage,
        "`loss`": grpo.loss,
        "`aggregation`": grpo.aggregation,
        "`clip_low` / `clip_high`": [grpo.clip_low, grpo.clip_high],
        "`kl_coef` (k3)": [grpo.kl_coef],
        "`dynamic_sampling`": "yes" if grpo.dynamic_sampling else "no",
        "`overlong_penalty_tokens`": [grpo.overlong_penalty_tokens],
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("method", [name for name in TABLE if not name.startswith("none")])
def test_a_preset_sets_what_the_page_says_with_any_experiment(method: str, experiment: str) -> None:
    assert composed_values(method, experiment) == TABLE[method]


def test_the_page_says_what_the_8b_experiment_has_without_a_preset() -> None:
    assert composed_values("none", "grpo_8b") == TABLE["none, 8B"]


@pytest.mark.parametrize("method", [name for name in TABLE if not name.startswith("none")])
def test_a_preset_keeps_the_experiments_batch_and_a_setting_of_the_command_line(method: str) -> None:
    cfg = composed("train_grpo", ["experiment=grpo_8b", f"method={method}", "grpo.clip_high=0.5"])
    plain = composed("train_grpo", ["experiment=grpo_8b"])
    assert cfg.grpo.clip_high == 0.5
    assert (cfg.grpo.updates_per_batch, cfg.grpo.steps, cfg.optim.lr) == (
        plain.grpo.updates_per_batch,
        plain.grpo.steps,
        plain.optim.lr,
    )
