"""What a validation measures, keeps and decides."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder, fill_paths
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.grading import Grade
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.grpo.validation import Validation, Validator, Verdict, fallen, of_greedy, of_samples
from alphamed_nemo.rollout.types import Rollout

QUESTIONS = [Question(f"q{n}", "bank", f"Question {n}?", ("yes", "no"), "A") for n in range(10)]


class Tokenizer:
    """A token for each character."""

    chat_template = eos_token = None
    added_tokens_decoder: dict = {}

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


class Pool:
    """Answers the first `right` questions correctly; sampled answers take turns."""

    def __init__(self, right: int) -> None:
        self.right, self.asked = right, []

    def generate(self, prompts, n, temperature, top_p, max_new_tokens, seed):
        self.asked.append((n, temperature, tuple(seed)))
        return [[self._answer(place, sample) for sample in range(n)] for place in range(len(prompts))]

    def _answer(self, place, sample):
        letter = "A" if place < self.right and sample % 2 == 0 else "B"
        return Rollout([1], [5, 6, 7], [0.0] * 3, 0, False, rf"so \boxed{{{letter}}}")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.grpo.steps = str(tmp_path), "run", 25
    cfg.data.chat_template, cfg.model.max_length, cfg.rollout.max_new_tokens = False, 2000, 16
    cfg.validate.every = 10
    fill_paths(cfg)
    write_questions(QUESTIONS, cfg.data.validation)
    return cfg


def validator(cfg: Config, right: int = 6) -> tuple[Validator, list]:
    rows: list = []

    def write(step: int, metrics: dict[str, float], _answers: list[dict]) -> None:
        rows.append((step, metrics))
        with RunFolder.of(cfg).metrics.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    return Validator(cfg, Pool(right), Tokenizer(), write), rows


def result(right: set[int], n: int = 200) -> EvaluationResult:
    grades = [Grade(f"q{i}", "bank", None, "A", ("A" if i in right else "B",), 2) for i in range(n)]
    return EvaluationResult("step", {"samples": 1, "protocol": "boxed"}, grades)


def test_a_validation_is_due_before_the_first_step_every_so_many_and_after_the_last(cfg):
    due = Validation(cfg, SimpleNamespace(), None).due
    assert [step for step in range(26) if due(step)] == [0, 10, 20, 25]
    cfg.validate.every = 0
    assert not any(due(step) for step in range(26))


def test_what_is_measured_is_kept_and_compared_with_the_base_model(cfg):
    asking, rows = validator(cfg, right=3)
    assert asking.validate(0) == Verdict(0.3)
    asking.pool.right = 9
    assert asking.validate(10) == Verdict(0.9)
    (_, first), (step, second) = rows
    assert "validation/gain" not in first and step == 10
    assert second["validation/gain"] == pytest.approx(0.6)
    assert second["validation/p"] == pytest.approx(2 / 2**6)  # six questions right that were wrong, none the other way
    assert second["validation/guessing"] == 0.5 and second["validation/response_length"] == 3
    assert second["validation/accuracy_low"] < 0.9 < second["validation/accuracy_high"]
    kept = EvaluationResult.read(RunFolder.of(cfg).validation / "step_10.json")
    assert kept.accuracy == 0.9 and kept.settings["weight_version"] == 10 and len(kept.rows) == 10


def test_the_same_questions_and_seeds_are_asked_each_time(cfg):
    cfg.validate.size, cfg.validate.samples = 4, 3
    asking, _ = validator(cfg)
    asking.validate(0)
    asking.validate(10)
    greedy, sampled, *again = asking.pool.asked
    assert again == [greedy, sampled] and greedy[:2] == (1, 0.0) and sampled[:2] == (3, 1.0)
    assert len(asking.questions) == len(set(sampled[2])) == 4


def test_several_samples_have_a_mean_a_majority_and_one_that_is_right(cfg):
    cfg.validate.samples = 3
    asking, rows = validator(cfg, right=6)
    asking.validate(0)
    found = {name: value for name, value in rows[0][1].items() if "@" in name}
    assert found == {
        "validation/mean@3": pytest.approx(0.6 * 2 / 3),
        "validation/maj@3": pytest.approx(0.6),
        "validation/pass@3": pytest.approx(0.6),
    }


def test_a_resumed_run_forgets_later_validations_and_goes_on_with_the_rest(cfg):
    cfg.validate.samples = 2
    asking, _ = validator(cfg)
    for step in (0, 10, 20):
        asking.validate(step)
    again, rows = validator(cfg, right=8)
    assert again.rewind(10) == Verdict(0.6)
    folder = RunFolder.of(cfg).validation
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_0.json",
        "step_0.samples.json",
        "step_10.json",
        "step_10.samples.json",
    ]
    again.validate(20)
    assert rows[0][1]["validation/gain"] == pytest.approx(0.2)
    assert validator(cfg)[0].rewind(15) == Verdict()


def test_a_validation_that_was_cut_off_before_its_row_is_made_again(cfg):
    asking, _ = validator(cfg)
    asking.validate(0)
    asking.validate(10)
    lines = RunFolder.of(cfg).metrics.read_text().splitlines(keepends=True)
    RunFolder.of(cfg).metrics.write_text(lines[0])
    again, _ = validator(cfg)
    assert again.rewind(10) == Verdict()
    assert list(again.results) == [0] and not (RunFolder.of(cfg).validation / "step_10.json").exists()


@pytest.mark.parametrize("change", ["questions", "prompt", "damage"])
def test_what_cannot_be_compared_is_left_out_with_a_warning(cfg, change, caplog):
    validator(cfg)[0].validate(0)
    if change == "questions":
        write_questions(QUESTIONS[:9], cfg.data.validation)
    elif change == "prompt":
        cfg.data.prompt = "tiny"
    else:
        (RunFolder.of(cfg).validation / "step_0.json").write_text("{")
    again, rows = validator(cfg)
    assert again.rewind(5) == Verdict() and "step_0.json" in caplog.text
    again.validate(10)
    assert "validation/gain" not in rows[0][1]


def test_training_ends_where_the_wanted_accuracy_is_reached_and_stays_ended(cfg, caplog):
    cfg.validate.stop_at = 0.6
    asking, _ = validator(cfg, right=5)
    assert asking.validate(0) == Verdict(0.5)
    asking.pool.right = 6
    assert asking.validate(10) == Verdict(0.6, stop=True)
    assert "accuracy 60.0%; training ends: validate.stop_at=0.6 is reached" in caplog.text
    assert validator(cfg)[0].rewind(10) == Verdict(0.6, stop=True)


@pytest.mark.parametrize("files", ["missing", "empty", "twice"])
def test_questions_that_cannot_be_asked_are_an_error_that_names_the_file(cfg, tmp_path, files):
    other = tmp_path / "other.jsonl"
    if files != "missing":
        write_questions([] if files == "empty" else QUESTIONS, other)
    cfg.validate.questions = [cfg.data.validation, str(other)]
    with pytest.raises(ValueError, match=r"other\.jsonl"):
        validator(cfg)


def test_accuracy_is_told_by_data_set_where_there_are_several():
    grades = [Grade(f"q{i}", "ab"[i % 2], None, "A", ("A" if i < 5 else "B",), 4) for i in range(8)]
    metrics = of_greedy(EvaluationResult("step", {"samples": 1}, grades), None)
    assert metrics["validation/accuracy/a"] == 3 / 4 and metrics["validation/accuracy/b"] == 2 / 4
    assert json.loads(json.dumps(metrics)) == metrics


def test_pass_at_n_counts_questions_with_a_right_sample():
    grades = [
        Grade(str(i), "a", None, "A", answers, 4)
        for i, answers in enumerate([tuple(pair) for pair in ("AB", "BB", "AA")])
    ]
    metrics = of_samples(EvaluationResult("step", {"samples": 2}, grades))
    assert metrics["validation/pass@2"] == pytest.approx(2 / 3) and metrics["validation/mean@2"] == pytest.approx(0.5)


def test_a_fall_beyond_chance_is_named_and_a_small_one_is_not():
    earlier = {0: result(set(range(80))), 10: result(set(range(140))), 20: result(set(range(10, 150)))}
    assert fallen(result(set(range(136))), earlier, 0.05, planned=9) is None
    assert fallen(result(set(range(160))), earlier, 0.05, planned=9) is None
    why = fallen(result(set(range(110))), earlier, 0.05, planned=9)
    assert why is not None and why.startswith("30 questions were right only after step 10, 0 only now (one-sided p = ")


def test_runs_whose_accuracy_never_falls_are_seldom_ended():
    """Nine validations of 100 questions whose answers change at random, with nothing learned and nothing lost: in 400
    runs at a chance of 0.2 no more end than 80 and three standard deviations."""
    draw, ended = random.Random(1), 0
    for _ in range(400):
        easy = [draw.random() for _ in range(100)]
        seen: dict[int, EvaluationResult] = {}
        for step in range(9):
            now = result({i for i in range(100) if draw.random() < easy[i]}, 100)
            if seen and fallen(now, seen, 0.2, planned=9):
                ended += 1
                break
            seen[step] = now
    assert 0 < ended <= 80 + 3 * (400 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(("rows", "ids"), [(0, []), (2, ["q0", "q1"]), (200, [f"q{n}" for n in range(10)])])
def test_loggers_get_the_first_answers_as_flat_rows(cfg, rows, ids):
    cfg.validate.table_rows, cfg.validate.samples = rows, 2
    tables: list = []
    Validator(cfg, Pool(1), Tokenizer(), lambda step, metrics, answers: tables.append((step, answers))).validate(10)
    ((step, answers),) = tables
    assert step == 10 and [row["question_id"] for row in answers] == ids
    if rows == 2:
        assert [(row["answer"], row["right"], row["response"]) for row in answers] == [
            ("A", True, r"so \boxed{A}"),
            ("B", False, r"so \boxed{B}"),
        ]
        assert answers[0] | {"tokens": 3, "options": "A: yes\nB: no", "key": "A", "level": None} == answers[0]
