"""How often each run passes over its questions: every experiment and study at least once, and as its file says."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from alphamed_nemo.cli.arguments import CONF
from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.dtypes import settle_dtypes
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import to_config
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.question import Question
from alphamed_nemo.data.subsets import choose, draw_subset
from alphamed_nemo.plan.passes import count_passes, subset_questions
from alphamed_nemo.plan.prediction import make_plan
from alphamed_nemo.plan.text import plan_text

SIZES = sorted(path.stem for path in (CONF / "experiment").glob("grpo_*.yaml"))
STUDIES = sorted(path.stem for path in (CONF / "experiment" / "study").glob("*.yaml"))
COMMENT = re.compile(r"steps: (\d+) # × 256 questions: ([\d.]+) passes over ([\d,]+)$", re.MULTILINE)


def planned(tmp_path: Path, *overrides: str) -> Config:
    cfg = fill_derived(composed("plan", [f"run.dir={tmp_path}", *overrides]))
    settle_dtypes(cfg, cuda=True)
    return cfg


@pytest.mark.parametrize("size", SIZES)
def test_every_size_passes_over_the_papers_data_at_least_once(size: str, tmp_path: Path) -> None:
    cfg, other = (planned(tmp_path, f"experiment={name}", "run.name=same") for name in (size, "grpo_8b"))
    passes = count_passes(cfg)
    assert passes is not None and passes.count >= 1
    # The studies are tested with one size, so all must have the same questions and batch.
    cfg.data.thinking = None  # of Qwen3's template alone
    cfg.grpo.tokens_per_microbatch = other.grpo.tokens_per_microbatch  # part of the layout
    assert [getattr(cfg, group) for group in ("grpo", "label", "data", "sources")] == [
        getattr(other, group) for group in ("grpo", "label", "data", "sources")
    ]


def test_the_published_recipe_passes_four_times_over_alphamed19k(tmp_path: Path) -> None:
    cfg = planned(tmp_path, "experiment=published/alphamed19k_8b")
    passes = count_passes(cfg)
    assert passes is not None and passes.questions == 19_178
    assert passes.count == pytest.approx(300 * 256 / 19_178)
    assert make_plan(cfg).fits
    assert cfg.model.max_length == 1024 + 2048
    grpo, rollout = cfg.grpo, cfg.rollout
    assert (grpo.samples_per_question, grpo.questions_per_step // grpo.updates_per_batch) == (8, 128)
    assert (grpo.clip_low, grpo.clip_high, rollout.temperature, rollout.top_p) == (0.2, 0.28, 1.0, 0.99)


def test_the_quickstart_passes_over_its_subset_at_least_once(tmp_path: Path) -> None:
    passes = count_passes(planned(tmp_path, "experiment=tiny"))
    assert passes is not None and passes.questions == 600 and passes.count >= 1


def test_the_medical_banks_questions_are_counted(tmp_path: Path) -> None:
    passes = count_passes(planned(tmp_path, "experiment=smollm2"))
    assert passes is not None and passes.questions == len(medical_bank()[0])


@pytest.mark.parametrize("name", ["medical", *(f"study/{study}" for study in STUDIES)])
def test_each_file_passes_over_its_questions_at_least_once_and_says_how_often(name: str, tmp_path: Path) -> None:
    study = [f"experiment/{name.replace('/', '=')}"] if "/" in name else []
    passes = count_passes(planned(tmp_path, "experiment=grpo_8b", *study))
    found = COMMENT.search((CONF / "experiment" / f"{name}.yaml").read_text())
    assert found and passes is not None, f"{name}: no 'steps: N # × 256 questions: X passes over Y'"
    steps, count, questions = int(found[1]), float(found[2]), int(found[3].replace(",", ""))
    assert (passes.asked, passes.questions) == (steps * 256, questions)
    assert passes.count == pytest.approx(count, abs=0.05) and passes.count >= 1


def test_the_papers_numbers(tmp_path: Path) -> None:
    def questions(study: str) -> int:
        passes = count_passes(planned(tmp_path, "experiment=grpo_8b", f"experiment/study={study}"))
        assert passes is not None
        return passes.questions

    assert questions("alphamed19k") == 19_178
    assert [questions(f"{name}_sub") for name in ("medqa", "medmcqa", "pubmedqa")] == [1200] * 3
    assert [questions(f"{name}_2400") for name in ("medqa", "medmcqa", "pubmedqa")] == [2400] * 3
    assert (questions("medqa_medmcqa"), questions("medqa_medmcqa_pubmedqa")) == (2400, 3600)
    assert [questions("medqa_l1" if n == 1 else f"medqa_l1_l{n}") for n in range(1, 7)] == [
        200 * n for n in range(1, 7)
    ]


LABELS = {
    "balanced": {"per_level": 10},
    "balanced, easy": {"per_level": 10, "up_to": 2},
    "by data set": {"subset": "by_dataset", "per_level": 5},
    "one data set": {"subset": "by_dataset", "per_level": 5, "datasets": ["medmcqa"]},
    "three samples": {"samples": 3, "per_level": 10},
    "mixture": {"subset": "mixture", "mixture": {"medqa": 30, "medmcqa": 7}},
    "all of some": {"subset": "all", "per_dataset": 150},
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_what_is_planned_is_what_a_labelling_then_draws(label: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = to_config({"data": {"source": "sources"}, "sources": {"train": {"medqa": {}, "medmcqa": {}}}, "label": label})
    sizes = {"medqa": 200, "medmcqa": 400}
    monkeypatch.setattr("alphamed_nemo.plan.passes.PUBLISHED", {(name, ""): size for name, size in sizes.items()})
    levels = itertools.cycle(range(1, cfg.label.samples + 2))
    labelled = [
        Question(f"{name}-{number}", name, "Which?", ("yes", "no"), "A", level=next(levels))
        for name, size in sizes.items()
        for number in range(size)
    ]
    chosen = choose(labelled, cfg.label.datasets, cfg.label.per_dataset, seed=1)
    assert subset_questions(cfg) == len(draw_subset(chosen, cfg.label, seed=1))


def test_the_training_file_counts_where_there_is_one(tmp_path: Path) -> None:
    cfg = planned(tmp_path, "experiment=grpo_8b", "experiment/study=medqa_sub")
    write_questions(embedded_bank(40, 0)[0], tmp_path / "medqa_sub" / "data" / "subset.jsonl")
    passes = count_passes(cfg)
    assert passes is not None and (passes.questions, passes.asked) == (40, 40 * 256)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=grpo_8b", "+sources.train.mine={set: questions, path: mine.jsonl}"],
        ["experiment=grpo_8b", "label.subset=balanced"],  # as many as the smallest level holds
        [],
    ],
)
def test_a_number_that_only_the_files_can_tell_is_not_guessed(overrides: list[str], tmp_path: Path) -> None:
    assert count_passes(planned(tmp_path, *overrides)) is None


def test_the_plan_says_how_often(tmp_path: Path) -> None:
    study = ("experiment=grpo_8b", "experiment/study=medqa_sub")
    shown = plan_text(make_plan(planned(tmp_path, *study)), [])
    assert "\n  40 steps of 256 questions: 8.5 passes over 1,200 questions (at most, label.subset=balanced)\n" in shown
    shown = plan_text(make_plan(planned(tmp_path, *study, "grpo.steps=3")), [])
    assert "3 steps of 256 questions: only 0.64 passes over 1,200 questions" in shown
