"""What a run's folders call the file of a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphamed_nemo.config.run_folder import by_step, step_name, step_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "step_10.json",
        "step_9.json",
        "step_9.samples.json",
        "step_11.samples.json",
        "step_2",
        "step_2.json.part",
        "step_x.json",
        "step_.json",
        "step_-1.json",
        ".step_3.json",
        "nostep_4.json",
        "step_5.jsonl",
    ):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("ending", "steps"), [("", [2]), (".json", [9, 10]), (".samples.json", [9, 11]), (".jsonl", [5]), (".parquet", [])]
)
def test_a_folder_lists_what_is_of_a_step_in_its_order(folder: Path, ending: str, steps: list[int]) -> None:
    found = by_step(folder, ending)
    assert list(found) == steps
    assert found == {step: folder / step_name(step, ending) for step in steps}
    assert [step_of(path) for path in found.values()] == steps


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert by_step(tmp_path / "samples", ".jsonl") == {}
