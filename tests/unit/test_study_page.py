"""The page of a study from invented results: that it stands alone, escapes, and has the figure of its study."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from alphamed_nemo.study.outcome import read_outcome
from alphamed_nemo.study.study_page import write_study
from tests.unit.synthetic_study import make_study
from tests.unit.test_report_page import Page

RISING = [[0.50, 0.52, 0.51], [0.60, 0.63, 0.61], [0.62, 0.61, 0.63], [0.70, 0.74, 0.78]]


def page_of(root: Path, accuracies: list[list[float]], *overrides: str) -> str:
    path = write_study(read_outcome(*make_study(root, accuracies, *overrides)))
    assert path.parts[-2:] == ("report", "index.html")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quantity", "diversity", "difficulty"])
@pytest.mark.parametrize(
    "accuracies", [RISING, [[0.5], [0.6], [0.7], []], [[], [], [], []]], ids=["full", "part", "none"]
)
def test_the_page_stands_alone_and_is_well_formed(name: str, accuracies: list[list[float]], tmp_path: Path) -> None:
    page = page_of(tmp_path, accuracies, f"study.name={name}")
    parsed = Page(page)
    assert parsed.fetched == [] and parsed.open == []
    assert "<script" not in page and "@import" not in page and "url(" not in page
    for chart in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        for element in ElementTree.fromstring(chart).iter():
            assert not re.search(r"\b(nan|inf)\b", " ".join(element.attrib.values()))


def test_names_from_settings_are_escaped(tmp_path: Path) -> None:
    page = page_of(
        tmp_path, RISING[:2], "study.name=diversity", "study.sources_by=kind", "study.sources=[disease,drug]"
    )
    assert "+ drug" in page
    outcome = read_outcome(
        *make_study(tmp_path / "b", RISING[:2], "study.name=diversity", "study.sources=[disease,drug]")
    )
    object.__setattr__(outcome.variants[1].variant, "name", "<b>drug</b>")
    page = write_study(outcome).read_text()
    assert "<b>drug" not in page and "&lt;b&gt;drug" in page


def test_quantity_is_a_curve_over_the_number_of_questions(tmp_path: Path) -> None:
    page = page_of(tmp_path, RISING, "study.name=quantity")
    (chart,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert chart.count('class="dot s1"') == 4 and chart.count('class="dot s8"') == 12  # means, and every seed
    assert chart.count('class="whisker"') == 12  # three strokes each
    places = [float(x) for x in re.findall(r'class="dot s1" cx="([\d.]+)"', chart)]
    steps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert max(steps) - min(steps) < 0.2  # each has twice the questions of the one before: a logarithmic scale
    assert [name for name in ("120", "240", "480", "960") if f">{name}</text>" not in chart] == []
    assert "base model" in chart


def test_difficulty_is_a_curve_over_bands_and_diversity_has_a_bar_for_each_source(tmp_path: Path) -> None:
    page = page_of(tmp_path / "a", RISING, "study.name=difficulty")
    assert all(f">L1–L{last}</text>" in page for last in (3, 4, 5, 6))
    page = page_of(tmp_path / "b", RISING, "study.name=diversity")
    (chart,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert re.findall(r'class="name"[^>]*>([^<]*)</text>', chart) == [
        "base model",
        "disease",
        "+ drug",
        "+ enzyme",
        "+ effect",
    ]


def test_the_tables_have_every_variant_comparison_level_and_run(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", Page(page_of(tmp_path, RISING, "study.name=quantity")).text)
    assert "12 of 12" in text and "4 variants × 3 seeds" in text
    assert "30 steps" in text and "of 32 questions × 8 samples, the same for all" in text
    assert "240 questions against 120 questions" in text and "960 questions against 120 questions" in text
    assert "What this shows" in text and "What this cannot show" in text
    assert "questions_960-seed3" in text


def test_a_study_without_a_finished_run_says_so(tmp_path: Path) -> None:
    text = Page(page_of(tmp_path, [[], [], [], []])).text
    assert "No run is finished yet, of 4." in text and "What this shows" not in text
