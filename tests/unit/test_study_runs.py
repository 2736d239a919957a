"""The plan of a study: which runs there are, which are missing after a stop, and what may not change between starts."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.limits import setting
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.study.study_commands import check_experiment, first_commands, job_command, run_commands
from alphamed_nemo.study.study_runs import check_draws, check_earlier, compared_settings, draw, pool_of, runs_of
from alphamed_nemo.study.variants import variants_of
from tests.unit.synthetic_study import add_run, labelled, study_config


def planned(cfg: Config) -> list:
    return runs_of(cfg, variants_of(cfg))


def test_every_variant_is_run_with_one_seed_before_the_next(tmp_path: Path) -> None:
    runs = planned(study_config(tmp_path, "study.sizes=[25,50]", "study.seeds=2", "run.seed=7"))
    assert [(run.variant.name, run.seed) for run in runs] == [
        ("150 questions", 7),
        ("300 questions", 7),
        ("150 questions", 8),
        ("300 questions", 8),
    ]
    assert len({run.folder.root for run in runs}) == 4


def test_runs_share_questions_and_compute_and_nothing_else(tmp_path: Path) -> None:
    cfg = study_config(tmp_path)
    for run in planned(cfg):
        own = RunFolder(tmp_path / "study_quantity" / f"{run.variant.folder}-seed{run.seed}")
        assert run.cfg.grpo.questions == str(own.subset) and run.cfg.evaluate.model == str(own.hf)
        assert run.cfg.label.questions == str(pool_of(cfg)) and run.cfg.data.heldout == cfg.data.heldout
        assert (run.cfg.run.seed, run.cfg.data.seed) == (run.seed, run.seed)
        for name in ("steps", "questions_per_step", "samples_per_question"):
            assert getattr(run.cfg.grpo, name) == getattr(cfg.grpo, name)
    runs = planned(cfg)
    assert runs[0].cfg.rollout is not runs[1].cfg.rollout  # servers of one are not another's


def test_after_a_stop_only_what_is_not_finished_is_missing(tmp_path: Path) -> None:
    cfg = study_config(tmp_path, "study.seeds=1")
    runs = planned(cfg)
    add_run(runs[0], 0.5)
    runs[1].folder.checkpoints.mkdir(parents=True)  # killed while it trained
    assert [run.is_finished for run in planned(cfg)] == [True, False, False, False]


def test_seeds_and_variants_may_be_added_to_a_study(tmp_path: Path) -> None:
    cfg = study_config(tmp_path, "study.seeds=1", "study.sizes=[25,50]")
    write_config(cfg, RunFolder.of(cfg).config)
    for run in planned(cfg):
        write_config(run.cfg, run.folder.config)
    more = study_config(tmp_path, "study.seeds=2", "study.sizes=[25,50,100]")
    check_earlier(more, planned(more))


@pytest.mark.parametrize(
    ("name", "value", "whose"),
    [
        ("grpo.steps", 31, "questions_120-seed1"),
        ("optim.lr", 1e-4, "questions_120-seed1"),
        ("evaluate.samples", 4, "questions_120-seed1"),
        ("data.train_questions", 1500, "study_quantity"),
        ("label.samples", 5, ""),
    ],
)
def test_what_is_compared_may_not_change_between_two_starts(
    name: str, value: object, whose: str, tmp_path: Path
) -> None:
    cfg = study_config(tmp_path)
    write_config(cfg, RunFolder.of(cfg).config)
    first = planned(cfg)[0]
    write_config(first.cfg, first.folder.config)
    now = study_config(tmp_path, f"{name}={value}")
    if not whose:
        check_earlier(now, planned(now))
        return
    with pytest.raises(
        ValueError, match=f"{name}: .*{whose} was begun with .* and this is {value}; .*run.name"
    ) as error:
        check_earlier(now, planned(now))
    assert "\n" not in str(error.value)


def test_where_servers_are_and_how_they_are_divided_may_change(tmp_path: Path) -> None:
    names = set(compared_settings())
    assert not {"rollout.engines", "parallel.tensor", "rollout.urls", "run.name", "grpo.save_every"} & names
    assert {"grpo.loss", "rollout.temperature", "run.seed", "label.per_level", "reward.protocol"} - names <= {
        "grpo.loss"
    }


def test_a_subset_that_cannot_be_drawn_is_named_before_any_training(tmp_path: Path) -> None:
    cfg = study_config(
        tmp_path, "study.name=difficulty", "study.bands=[1,6]", "study.per_level=300", "label.fill=error"
    )
    write_questions(labelled(), pool_of(cfg))
    with pytest.raises(ValueError, match="L1, seed 1: label.per_level: L1 300 asked for, but there are L1 26"):
        check_draws(planned(cfg), cfg)


def test_the_printed_commands_train_on_what_the_study_would(tmp_path: Path) -> None:
    words = ["experiment=tiny", "grpo.steps=5", "study.name=diversity", "study.dry_run=true", "hydra.run.dir=."]
    cfg = study_config(tmp_path, "study.name=diversity", "grpo.steps=5")
    run = planned(cfg)[1]
    for line in run_commands(run, words):
        program, stage, *settings = shlex.split(line)
        typed = fill_derived(composed(stage, [*settings]))
        assert program == "./run" and RunFolder.of(typed).root == run.folder.root
        names = [
            *compared_settings(),
            "grpo.questions",
            "label.questions",
            "data.heldout",
            "export.out",
            "evaluate.model",
        ]
        assert {name: setting(typed, name) for name in names} == {name: setting(run.cfg, name) for name in names}
    write_questions(labelled(), pool_of(cfg))
    assert {question.dataset for question in draw(run, labelled())} == {"disease", "drug"}


def test_jobs_take_the_scripts_of_a_size(tmp_path: Path) -> None:
    words = ["experiment=grpo_8b", "study.slurm=8b", "grpo.steps=40"]
    cfg = study_config(tmp_path, *words)
    command = job_command(planned(cfg)[0], words, "8b")
    assert command[:5] == ["slurm/pipeline.sh", "8b", "--from=grpo", "--no-base", "experiment=grpo_8b"]
    assert "grpo.steps=40" in command and not [word for word in command if word.startswith("study.")]
    label, evaluate = first_commands(cfg, words, labelled=False)
    assert label[0] == "slurm/label.sh" and "label.subset=all" in label
    assert evaluate[0] == "slurm/evaluate.sh" and "evaluate.label=base" in evaluate
    assert first_commands(cfg, words, labelled=True) == [evaluate]
    check_experiment(cfg, words)
    with pytest.raises(ValueError, match="study.slurm: found 8b .* add experiment=grpo_8b"):
        check_experiment(cfg, words[1:])
