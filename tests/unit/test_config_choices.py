"""What a setting may be is what the code that it chooses has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from alphamed_nemo.answers.protocols import PROTOCOLS
from alphamed_nemo.config.choices import (
    EvaluationProtocol,
    Fp8Recipe,
    GpuType,
    Prompt,
    Protocol,
    Recompute,
    names,
)
from alphamed_nemo.data.prompts import TEMPLATES
from alphamed_nemo.evaluation.grading import FIRST_OR_LAST
from alphamed_nemo.plan.hardware import GPUS
from alphamed_nemo.policy.model import FP8_RECIPES, RECOMPUTE


@pytest.mark.parametrize(
    ("choice", "table"),
    [
        (Prompt, TEMPLATES),
        (EvaluationProtocol, [*names(Protocol), FIRST_OR_LAST]),
        (Recompute, RECOMPUTE),
        (Fp8Recipe, FP8_RECIPES),
        (GpuType, GPUS),
    ],
    ids=["prompt", "evaluation protocol", "recompute", "fp8 recipe", "GPU"],
)
def test_every_choice_has_its_row_and_every_row_can_be_chosen(choice: Any, table: Iterable[str]) -> None:
    assert set(names(choice)) == set(table)


def test_every_protocol_of_the_reward_has_its_extractor() -> None:
    assert set(names(Protocol)) <= set(PROTOCOLS)
