"""The table of docs/grading.md that sets the protocols beside other extractors, in the columns that are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphamed_nemo.answers.protocols import extract_answer

PAGE = Path(__file__).parents[2] / "docs" / "grading.md"
OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")


def compared() -> list[tuple[str, str, str]]:
    """(response, read by boxed, read by lenient) of each row."""
    section = PAGE.read_text(encoding="utf-8").split("## Beside other extractors", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.split("\n") if line.startswith("| `")]
    return [(row[0].strip("`").replace("⏎", "\n"), row[4], row[5]) for row in rows]


def test_the_table_is_found():
    assert len(compared()) > 20


@pytest.mark.parametrize(("response", "boxed", "lenient"), compared())
def test_compared_row(response, boxed, lenient):
    read = [extract_answer(response, OPTIONS, protocol) or "none" for protocol in ("boxed", "lenient")]
    assert read == [boxed, lenient]
