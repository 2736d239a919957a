"""What a study compares: subsets by settings of `label`, and mistakes that are known before anything starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from alphamed_nemo.data.subsets import choose, draw_subset
from alphamed_nemo.study.variants import Variant, by_source, check_questions, variants_of
from tests.unit.synthetic_study import labelled, study_config


def drawn(tmp_path: Path, *overrides: str) -> dict[str, list]:
    """Questions of each variant by its name, with the seed 1."""
    cfg = study_config(tmp_path, *overrides)
    found = {}
    for variant in variants_of(cfg):
        label = replace(cfg.label, **variant.label)
        found[variant.name] = draw_subset(choose(labelled(), label.datasets, 0, 1), label, 1)
        assert len(found[variant.name]) == variant.questions
    return found


def test_quantity_draws_balanced_sets_of_which_the_smaller_are_part_of_the_larger(tmp_path: Path) -> None:
    found = drawn(tmp_path, "study.name=quantity")
    assert [len(questions) for questions in found.values()] == [120, 240, 480, 960]
    sets = [{question.id for question in questions} for questions in found.values()]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    assert all(len(set(Counter(q.level for q in questions).values())) == 1 for questions in found.values())


def test_diversity_adds_one_source_after_another(tmp_path: Path) -> None:
    found = drawn(tmp_path, "study.name=diversity")
    assert list(found) == ["disease", "+ drug", "+ enzyme", "+ effect"]
    assert [len(questions) for questions in found.values()] == [240, 480, 720, 960]
    assert {q.dataset for q in found["+ drug"]} == {"disease", "drug"}
    assert {q.id for q in found["disease"]} < {q.id for q in found["+ drug"]}


def test_difficulty_adds_harder_levels(tmp_path: Path) -> None:
    found = drawn(tmp_path, "study.name=difficulty", "study.bands=[1,1-2,3-6]")
    assert {name: sorted({q.level for q in questions}) for name, questions in found.items()} == {
        "L1": [1],
        "L1–L2": [1, 2],
        "L3–L6": [3, 4, 5, 6],
    }
    assert [len(questions) for questions in found.values()] == [40, 80, 160]


@pytest.mark.parametrize("name", ["diversity", "difficulty"])
def test_the_same_size_for_all_takes_quantity_out(tmp_path: Path, name: str) -> None:
    found = drawn(tmp_path, f"study.name={name}", "study.same_size=true", "study.per_level=60")
    assert len({len(questions) for questions in found.values()}) == 1


def test_the_papers_sets_are_the_default_of_a_full_size_model(tmp_path: Path) -> None:
    def variants(name: str) -> list[tuple[str, int]]:
        cfg = study_config(tmp_path, "experiment=grpo_8b", "sources=paper", f"study.name={name}")
        return [(variant.name, variant.questions) for variant in variants_of(cfg)]

    assert variants("quantity") == [("1,200 questions", 1200), ("2,400 questions", 2400)]
    assert variants("diversity") == [("medqa", 1200), ("+ medmcqa", 2400), ("+ pubmedqa", 3600)]
    bands = ["L1", *(f"L1–L{last}" for last in range(2, 7))]
    cfg = study_config(tmp_path, "experiment=grpo_8b", "study.name=difficulty", "grpo.questions_per_step=128")
    assert [(variant.name, variant.questions) for variant in variants_of(cfg)] == [
        (band, 200 * (i + 1)) for i, band in enumerate(bands)
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.sizes=[50]"], "study.sizes: found 1 variant, expected two or more"),
        (["study.sizes=[50,50]"], "study.sizes: 300 questions occurs twice"),
        (["study.sizes=[2,50]"], "study.sizes: 12 questions has 12 questions, fewer than grpo.questions_per_step=32"),
        (["study.name=difficulty", "study.bands=[1-2,hard]"], "study.bands: found 'hard', expected a level or a range"),
        (["study.name=difficulty", "study.bands=[1-2,1-7]"], "study.bands: found '1-7', .* of 1 to 6"),
        (["study.name=difficulty", "study.bands=[1-2,3-2]"], "study.bands: found '3-2'"),
        (["study.name=diversity", "study.same_size=true"], "study.per_level: .* take a multiple of 12"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        variants_of(study_config(tmp_path, *overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.sizes=[50,400]"], "study.sizes: .* 2400 questions wanted, but the training file has 1600"),
        (["study.name=diversity", "study.sources=[disease,drog]"], "study.sources: no questions of drog; there are"),
        (["study.name=diversity", "study.per_level=70"], "420 questions of each source wanted, but disease has 400"),
    ],
)
def test_too_few_questions_are_known_before_they_are_labelled(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    cfg = study_config(tmp_path, *overrides)
    with pytest.raises(ValueError, match=message):
        check_questions(cfg, variants_of(cfg), labelled())


def test_a_source_may_be_an_entry_of_the_metadata() -> None:
    questions = [replace(question, dataset="clinic") for question in labelled(8)]
    assert [question.dataset for question in by_source(questions, "kind")][:4] == [
        "disease",
        "drug",
        "enzyme",
        "effect",
    ]
    with pytest.raises(ValueError, match="study.sources_by: question q0000 has no 'kinds' .* correct, kind, samples"):
        by_source(questions, "kinds")


def test_variants_of_the_same_settings_are_equal(tmp_path: Path) -> None:
    first, second = (variants_of(study_config(tmp_path)) for _ in range(2))
    assert first == second and len({*first, *second}) == len(first)
    assert isinstance(first[0], Variant)
