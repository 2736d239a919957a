"""What is kept of a step is all that training on it again takes; and another rule can grade it."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path

import pyarrow.parquet
import pytest

from alphamed_nemo.config import Config, GrpoConfig, RewardConfig
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.collect import Collected, complete_group
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.kept_rollouts import read_rollouts, write_rollouts
from alphamed_nemo.grpo.replay import Replay
from alphamed_nemo.grpo.rescoring import rescore
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardItem, Score
from alphamed_nemo.rollout.types import Rollout

OPTIONS = ("yes", "no", "both")
QUESTIONS = {f"q{n}": Question(f"q{n}", "bank", f"Question {n}?", OPTIONS, "A", level=n + 1) for n in range(4)}
GRPO = GrpoConfig(samples_per_question=4, mask_truncated=True, overlong_penalty_tokens=4)
TEXTS = (r"\boxed{A}", "The answer is A.", r"\boxed{B} ü 😀", "")
LIMIT = 12


def group(number: int, draw: random.Random) -> Group:
    rollouts = [
        Rollout(
            [1, 2, number],
            array("i", [draw.randrange(49_000) for _ in range(length)]),
            array("f", [draw.random() for _ in range(length)]),
            number,
            length == LIMIT,
            text,
        )
        for text, length in zip(TEXTS, (1, 5, 10, LIMIT), strict=True)
    ]
    question = QUESTIONS[f"q{number}"]
    scores = score_all([RewardItem(text, question.answer, question.options) for text in TEXTS])
    scores[0] = Score(1.0, "A", "correct", {"correct": 1.0, "own/part": 0.25})
    return complete_group(question, rollouts, scores, GRPO, LIMIT)


@pytest.fixture
def batch() -> Collected:
    draw = random.Random(1)
    groups = [group(number, draw) for number in range(3)]
    return Collected(
        groups,
        asked=6,
        asked_effective=4,
        rounds=2,
        seconds={"generation": 1.25, "reward": 0.125},
        servers=2,
        stream={"epoch": 0, "pending": ["q3"]},
        by_level={0: (2, 1), 1: (1, 1)},
        dropped=[group(3, draw)],
    )


def test_a_step_comes_back_as_it_was(batch, tmp_path):
    write_rollouts(tmp_path / "step_1.parquet", 1, batch)
    assert read_rollouts(tmp_path / "step_1.parquet", QUESTIONS, GRPO, LIMIT) == batch


def test_with_another_method_the_same_scores_give_other_advantages(batch, tmp_path):
    write_rollouts(tmp_path / "step_1.parquet", 1, batch)
    other = GrpoConfig(samples_per_question=4, advantage="group_mean")
    (first, *_) = read_rollouts(tmp_path / "step_1.parquet", QUESTIONS, other, LIMIT).groups
    assert first.rewards == [1.0, 0.0, 0.0, 0.0] and first.advantages == [0.75, -0.25, -0.25, -0.25]


def test_other_tools_can_read_it(batch, tmp_path):
    write_rollouts(tmp_path / "step_1.parquet", 1, batch)
    rows = pyarrow.parquet.read_table(tmp_path / "step_1.parquet").to_pylist()
    assert len(rows) == 16 and [row["trained"] for row in rows[::4]] == [True, True, True, False]
    assert rows[1]["text"] == TEXTS[1] and rows[1]["answer"] is None and rows[1]["reason"] == "no_answer"


@pytest.mark.parametrize("damage", ["missing", "cut", "another table", "unknown question"])
def test_what_cannot_be_read_is_an_error_that_names_the_file(batch, tmp_path, damage):
    path, questions = tmp_path / "step_1.parquet", dict(QUESTIONS)
    if damage != "missing":
        write_rollouts(path, 1, batch)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "another table":
        pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), path)
    elif damage == "unknown question":
        questions.pop("q2")
    with pytest.raises(ValueError, match=r"step_1\.parquet: (not the rollouts of a step|question 'q2' is not in)"):
        read_rollouts(path, questions, GRPO, LIMIT)


class Alone:
    """The exchange of a trainer of one rank."""

    @staticmethod
    def from_rank0(make):
        return make()


def test_a_replay_gives_the_batches_of_the_run_step_by_step(batch, tmp_path):
    cfg = Config()
    cfg.grpo, cfg.rollout.max_new_tokens = GRPO, LIMIT
    cfg.grpo.replay, cfg.grpo.questions = str(tmp_path / "run"), str(tmp_path / "train.jsonl")
    write_questions(QUESTIONS.values(), cfg.grpo.questions)
    second = Collected(batch.groups[::-1], 3, 3, 1, {}, 1, {}, {}, [])
    for step, each in enumerate((batch, second), start=1):
        write_rollouts(RunFolder(tmp_path / "run").rollouts_of(step), step, each)
    replay = Replay(cfg, Alone())
    assert [replay.batch(0), replay.batch(1)] == [batch, second]


def test_another_rule_grades_every_response_again(batch, tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        write_rollouts(folder.rollouts_of(step), step, batch)
    seen: list = []
    out = tmp_path / "rescored.jsonl"
    found = rescore(folder, RewardConfig(protocol="lenient"), QUESTIONS, None, out, lambda *done: seen.append(done))
    assert list(found) == [1, 2] and seen == [(1, 2), (2, 2)]
    one = found[1]
    assert (one.responses, one.before, one.after) == (16, 4.0, 8.0)
    assert one.reasons == {("correct", "correct"): 4, ("no_answer", "correct"): 4, ("wrong", "wrong"): 4} | {
        ("no_answer", "no_answer"): 4
    }
    assert one.changed == 4
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 8 and {row["response"] for row in rows} == {TEXTS[1]}
    assert rows[0]["before"] == {"answer": None, "reward": 0.0} and rows[0]["after"] == {"answer": "A", "reward": 1.0}


def test_a_response_longer_than_the_limit_states_no_answer(batch, tmp_path):
    folder = RunFolder(tmp_path)
    write_rollouts(folder.rollouts_of(1), 1, batch)
    reward = RewardConfig(max_response_chars=len(TEXTS[0]) - 1)
    assert rescore(folder, reward, QUESTIONS, None, tmp_path / "out.jsonl")[1].after == 0.0


def test_functions_of_ones_own_grade_with_the_prompt(batch, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def brief(prompt, response):\n    return float(prompt == 'asked' and len(response) < 12)\n")
    folder = RunFolder(tmp_path)
    write_rollouts(folder.rollouts_of(1), 1, batch)
    reward = RewardConfig(functions=["correct", f"{own}:brief"], weights=[1.0, 0.5])
    found = rescore(folder, reward, QUESTIONS, lambda ids: "asked", tmp_path / "rescored.jsonl")
    assert found[1].after == 4 * (1.5 + 0.0 + 0.0 + 0.5)


def test_a_run_that_kept_nothing_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"rollouts: found no step_<n>\.parquet"):
        rescore(RunFolder(tmp_path), RewardConfig(), QUESTIONS, None, tmp_path / "out.jsonl")
