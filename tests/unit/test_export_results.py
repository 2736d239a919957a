"""Results on a model card: of exactly its weights, beside the base model's, added when they come."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import ModelCardData

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder, fill_paths
from alphamed_nemo.evaluation.journal import model_identity
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.stats import mcnemar, wilson
from alphamed_nemo.export import card_results
from alphamed_nemo.export.base_model import front_matter
from alphamed_nemo.export.card_results import BEGIN, END, update_card
from alphamed_nemo.provenance import release_identity
from tests.unit.released_run import TINY, evaluation, make_run, release, settings

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run with its release in hf, and no evaluation yet."""
    folder = make_run(settings(tmp_path / "runs"))
    release(folder.checkpoints / "step_20", folder.hf)
    folder.eval.mkdir()
    return folder


def card_of(folder: RunFolder) -> str:
    return (folder.hf / "README.md").read_text(encoding="utf-8")


def write(folder: RunFolder, name: str, result: EvaluationResult) -> EvaluationResult:
    result.write(folder.eval / f"{name}.json")
    return result


def test_a_result_goes_to_the_card_once_and_the_rest_of_it_stays(folder):
    before = card_of(folder)
    result = write(folder, "trained", evaluation(folder.hf, 30))
    assert update_card(folder.hf, folder.eval)
    after = card_of(folder)
    low, high = (100 * value for value in wilson(15, 20))
    assert f"| medqa | 20 | 25.0 | 75.0 ({low:.1f} to {high:.1f}) |" in after and "| all | 40 | 25.0 | 75.0 (" in after
    assert "greedy, at most 48 new tokens, 0 of 40 responses without an answer, 7 tokens per response" in after
    assert f"evaluated {result.date}" in after and "not been evaluated" not in after
    assert "Answers in free text (HealthBench and the like) have not been judged." in after
    assert before.split(BEGIN)[0].split("\n---\n")[1] == after.split(BEGIN)[0].split("\n---\n")[1]
    assert before.split(END)[1] == after.split(END)[1]
    stamp = (folder.hf / "README.md").stat()
    assert not update_card(folder.hf, folder.eval)
    assert (folder.hf / "README.md").stat() == stamp
    assert sorted(path.name for path in folder.hf.iterdir() if path.name.startswith(".")) == []


def test_the_front_matter_has_the_results_with_their_dates(folder):
    result = write(folder, "trained", evaluation(folder.hf, 30))
    write(folder, "forced", evaluation(folder.hf, 40, force_prefix="So:"))
    write(folder, "base", evaluation(TINY, 10))
    update_card(folder.hf, folder.eval)
    data = ModelCardData(**front_matter(folder.hf / "README.md"))
    found = {(one.dataset_name, one.metric_type, one.metric_value) for one in data.eval_results}
    assert found == {("medqa", "accuracy", 75.0), ("medmcqa", "accuracy", 75.0)}
    assert {one.metric_args["date"] for one in data.eval_results} == {result.date}
    assert {(one.metric_args["questions"], one.metric_args["protocol"]) for one in data.eval_results} == {(20, "boxed")}
    assert data.model_name == "demo"


def test_base_and_trained_are_compared_question_by_question(folder):
    trained, base = write(folder, "hf", evaluation(folder.hf, 30)), write(folder, "base", evaluation(TINY, 10))
    update_card(folder.hf, folder.eval)
    test = mcnemar([one.majority_correct for one in trained.grades], [one.majority_correct for one in base.grades])
    assert (test.only_first, test.only_second) == (20, 0)
    text = " ".join(card_of(folder).split())
    assert "| data set | questions | guessing | this model | base model |" in text
    assert "20 that only this model has right, 0 that only the base model has right (McNemar's exact test, " in text
    assert f"two-sided: p = {test.p:.2g})" in text


@pytest.mark.parametrize(
    "asked", [{"prompt": "direct"}, {"samples": 2}, {"questions": "others"}, {"protocol": "lenient"}]
)
def test_what_was_asked_differently_is_shown_and_not_tested(folder, asked):
    write(folder, "hf", evaluation(folder.hf, 30))
    write(folder, "base", evaluation(TINY, 10, **asked))
    update_card(folder.hf, folder.eval)
    assert "base model: prompt" in card_of(folder) and "McNemar" not in card_of(folder)


def test_the_rule_of_training_comes_first(folder):
    write(folder, "a", evaluation(folder.hf, 30, protocol="lenient"))
    write(folder, "b", evaluation(folder.hf, 30))
    update_card(folder.hf, folder.eval)
    assert card_of(folder).index("the protocol `boxed`") < card_of(folder).index("the protocol `lenient`")


def test_results_of_other_weights_stay_out(folder, tmp_path):
    write(folder, "later", evaluation(folder.hf, 30, release="0" * 64))
    write(folder, "elsewhere", evaluation(tmp_path, 30))
    write(folder, "refitted", evaluation(folder.hf, 30, weight_version=20))
    (folder.eval / "notes.json").write_text('{"mine": 1}')
    before = card_of(folder)
    assert not update_card(folder.hf, folder.eval) and card_of(folder) == before


def test_of_two_equal_evaluations_the_newest_stays(folder):
    write(folder, "a", dataclasses.replace(evaluation(folder.hf, 30), date="2026-02-02"))
    write(folder, "b", dataclasses.replace(evaluation(folder.hf, 20), date="2026-01-01"))
    update_card(folder.hf, folder.eval)
    assert "75.0 (" in card_of(folder) and "50.0 (" not in card_of(folder)
    assert "evaluated 2026-02-02" in card_of(folder)


def test_a_changed_release_gets_no_results(folder):
    write(folder, "trained", evaluation(folder.hf, 30))
    before = card_of(folder)
    with (folder.hf / "model.safetensors").open("r+b") as file:
        file.seek(10**6)
        file.write(b"\1\2\3")
    with pytest.raises(ValueError, match="model.safetensors: not the file that was exported"):
        update_card(folder.hf, folder.eval)
    assert card_of(folder) == before


def test_a_result_of_a_changed_release_is_not_one_of_the_next_export(folder):
    config = json.loads((folder.hf / "config.json").read_text())
    (folder.hf / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    write(folder, "trained", evaluation(folder.hf, 30))
    assert not update_card(folder.hf, folder.eval)
    release(folder.checkpoints / "step_20", folder.hf)
    assert not update_card(folder.hf, folder.eval) and "not been evaluated" in card_of(folder)


def test_a_result_that_would_give_something_away_is_refused(folder):
    write(folder, "trained", evaluation(folder.hf, 30, force_prefix="/home/alice/x"))
    before = card_of(folder)
    with pytest.raises(ValueError, match="README.md: not updated, since it would publish a path"):
        update_card(folder.hf, folder.eval)
    assert card_of(folder) == before


def test_a_result_that_comes_while_the_card_is_written_is_not_lost(folder, monkeypatch):
    """Two evaluations that end at once: the second result comes after the first has read the folder."""
    write(folder, "trained", evaluation(folder.hf, 30))
    second, real = evaluation(TINY, 10), card_results._check

    def check(*arguments):
        if not (folder.eval / "base.json").exists():
            write(folder, "base", second)
        real(*arguments)

    monkeypatch.setattr(card_results, "_check", check)
    assert update_card(folder.hf, folder.eval)
    assert "this model | base model |" in card_of(folder)


def test_a_card_is_whole_at_any_time(folder):
    """Readers see the card of before or of after, never a part."""
    results = [evaluation(folder.hf, right) for right in (10, 20, 30)]
    ends, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            ends.add(card_of(folder)[-40:])

    reader = threading.Thread(target=read)
    reader.start()
    for result in results * 5:
        write(folder, "trained", result)
        assert update_card(folder.hf, folder.eval)
    stop.set()
    reader.join()
    assert len(ends) == 1


def test_a_card_without_the_section_is_left_as_it_is(folder):
    write(folder, "trained", evaluation(folder.hf, 30))
    (folder.hf / "README.md").write_text("# My own words\n")
    assert not update_card(folder.hf, folder.eval) and card_of(folder) == "# My own words\n"
    assert not update_card(folder.root / "nowhere", folder.eval)


def test_a_new_export_of_the_same_weights_shows_the_earlier_results(folder):
    write(folder, "trained", evaluation(folder.hf, 30))
    update_card(folder.hf, folder.eval)
    before, identity = card_of(folder), (release_identity(folder.hf), model_identity(folder.hf))
    release(folder.checkpoints / "step_20", folder.hf)
    assert card_of(folder) == before
    assert identity == (release_identity(folder.hf), model_identity(folder.hf))
    release(folder.checkpoints / "step_20", folder.hf, dtype="bfloat16")
    assert release_identity(folder.hf) != identity[0]
    assert "not been evaluated" in card_of(folder)


def test_the_models_hash_is_that_of_its_files(folder):
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.hf.iterdir()}
    origin = json.loads((folder.hf / "provenance.json").read_text())
    assert (
        origin["files"].items() == {k: v for k, v in files.items() if k not in ("README.md", "provenance.json")}.items()
    )
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(origin["files"].items()))
    assert origin["model_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_recipe_updates_the_cards_of_its_own_run_alone(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    from evaluate import update_cards

    copy = release(folder.checkpoints / "step_20", folder.eval / "models" / "step_20")
    other = make_run(dataclasses.replace(settings(tmp_path / "others"), run=_named(tmp_path, "other")))
    foreign = release(other.checkpoints / "step_20", other.hf)
    untouched = (foreign / "README.md").read_text()
    cfg = Config()
    cfg.run.dir, cfg.run.name = str(folder.root.parent), folder.root.name
    write(folder, "trained", evaluation(copy, 30))
    for model in (copy, foreign):
        cfg.evaluate.model = str(model)
        update_cards(fill_paths(cfg))
    assert "75.0 (" in card_of(folder) and "75.0 (" in (copy / "README.md").read_text()
    assert (foreign / "README.md").read_text() == untouched


def _named(tmp_path: Path, name: str):
    run = Config().run
    run.dir, run.name = str(tmp_path / "others"), name
    return run


def test_a_result_without_a_date_says_so(folder):
    result = write(folder, "trained", evaluation(folder.hf, 30))
    assert result.date and EvaluationResult.read(folder.eval / "trained.json").date == result.date
    record = json.loads((folder.eval / "trained.json").read_text())
    del record["date"]
    (folder.eval / "trained.json").write_text(json.dumps(record))
    update_card(folder.hf, folder.eval)
    assert "evaluated on a day not recorded" in card_of(folder)
    assert os.listdir(folder.eval) == ["trained.json"]
