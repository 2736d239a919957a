import json

import pytest
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.question import Question
from alphamed_nemo.errors import one_line
from alphamed_nemo.families import dimensions
from alphamed_nemo.grpo.collect import Collected
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.record import RunRecord
from alphamed_nemo.grpo.rollout_metrics import rollout_metrics
from alphamed_nemo.grpo.throughput import peak_operations, training_operations
from alphamed_nemo.policy.packing import TrainSequence
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.types import Rollout

TIMING = {"generation": 2.0, "reward": 0.1, "training": 1.0, "step": 4.0}


def collected(groups: int = 2) -> Collected:
    question = Question("q", "test", "stem", ("one", "two"), "B")
    rollouts = [Rollout([1, 2, 3], [4, 5], [-0.1, -0.2], 0, False, f"text {i}") for i in range(2)]
    scores = [Score(reward=1.0, answer="B", reason="correct"), Score(reward=0.0, answer=None, reason="no_answer")]
    group = Group(question, rollouts, scores, [1.0, 0.0], [1.0, -1.0], [1.0, 1.0])
    return Collected([group] * groups, groups, groups, 1, {"generation": 2.0, "reward": 0.1})


def test_effective_ratios_are_kept_by_level():
    batch = collected()
    batch.by_level = {3: (8, 6), 1: (2, 0)}
    metrics = rollout_metrics(batch, Config())
    assert (metrics["effective_query_ratio/L1"], metrics["effective_query_ratio/L3"]) == (0.0, 0.75)
    assert metrics["effective_query_ratio"] == 1.0


def record(tmp_path, **settings) -> RunRecord:
    settings = {"keep_rollouts": False, "samples_kept": 3, "devices": 2, "loggers": []} | settings
    return RunRecord(RunFolder(tmp_path), lambda ids: f"<bos>{ids}", **settings)


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_json_line_a_step_with_throughput_per_device(tmp_path):
    record(tmp_path).write(1, {"loss": 0.5, "processed_tokens": 20.0}, TIMING, collected())
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row["step"] == 1 and row["loss"] == 0.5 and row["timing/reward"] == 0.1
    assert row["throughput/generated_tokens_per_s"] == 8 / 2.0 / 2
    assert row["throughput/trained_tokens_per_s"] == 20 / 1.0 / 2
    assert row["throughput/tokens_per_s_per_device"] == 4 * (3 + 2) / 4.0 / 2
    assert "throughput/mfu" not in row  # of a card that is not known


def test_mfu_is_the_share_of_the_cards_peak_while_training(tmp_path):
    metrics = {"processed_tokens": 20.0, "training_operations": 3e14}
    record(tmp_path, peak=1e15).write(1, metrics, TIMING, collected())
    assert rows(tmp_path / "metrics.jsonl")[0]["throughput/mfu"] == pytest.approx(0.3)


def test_operations_are_counted_as_torch_counts_them():
    """Forward and backward of transformers' Llama, with the operations of attention that its mask leaves out."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=50,
        attn_implementation="eager",
    )
    sequence = TrainSequence(list(range(9)), list(range(8)))  # 16 tokens have a next one, 8 of these in the response
    model, tokens = LlamaForCausalLM(config), torch.arange(16)[None]
    with FlopCounterMode(display=False) as counter:
        model(tokens, logits_to_keep=8).logits.sum().backward()
    masked = 6 * 2 * 64 * 16**2  # eager attention computes both halves of the triangle
    assert training_operations(dimensions(config), [sequence]) == counter.get_total_flops() - masked


@pytest.mark.parametrize(
    ("card", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", None), ("", None)],
)
def test_the_peak_is_that_of_cards_whose_data_sheet_is_known(card, peak):
    assert peak_operations(card) == peak


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples/step_1.jsonl"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name):
    run = record(tmp_path)
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        run.write(1, {"processed_tokens": 20.0}, TIMING, collected())
    assert one_line(error.value).startswith(f"{tmp_path / name}: No space left on device; free disk space")


def test_samples_hold_what_a_reader_needs_and_no_more_than_asked(tmp_path):
    record(tmp_path).write(1, {"processed_tokens": 20.0}, TIMING, collected())
    samples = rows(tmp_path / "samples" / "step_1.jsonl")
    assert len(samples) == 3
    assert samples[0] == {
        "question_id": "q",
        "question": "stem",
        "prompt": f"<bos>{collected().groups[0].rollouts[0].prompt_ids}",
        "options": ["one", "two"],
        "answer": "B",
        "response": "text 0",
        "extracted": "B",
        "reward": 1.0,
        "truncated": False,
        "length": 2,
    }


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path):
    run = record(tmp_path)
    for step in (1, 2, 3):
        run.write(step, {"processed_tokens": 20.0}, TIMING, collected())
    with run.path.open("a") as file:
        file.write('{"step": 4, "lo')
    run.rewind(2)
    assert [row["step"] for row in rows(run.path)] == [1, 2]


def test_rewind_removes_the_samples_of_steps_that_are_undone(tmp_path):
    run = record(tmp_path)
    for step in (9, 10, 11):
        run.write(step, {"processed_tokens": 20.0}, TIMING, collected())
    (run.samples / "notes.txt").touch()
    run.rewind(9)
    assert sorted(path.name for path in run.samples.iterdir()) == ["notes.txt", "step_9.jsonl"]


TORN = [b'{"step": 2, "lo', b"\xff\xfe", b"[]", b"null", b"{}", b'{"step": "2"}', b""]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_row_in_the_middle_is_dropped_with_its_line_and_stops_no_resume(tmp_path, torn, caplog):
    run = record(tmp_path)
    run.path.write_bytes(b'{"step": 1}\n' + torn + b'\n{"step": 3}\n{"step": 4}\n')
    run.rewind(3)
    assert run.path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    assert f"{run.path}, line 2: no row of metrics, dropped" in caplog.text


def test_a_row_is_on_the_disk_before_the_step_is_saved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append((tmp_path / "metrics.jsonl").read_text()))
    record(tmp_path).write(1, {"processed_tokens": 20.0}, TIMING, collected())
    assert [json.loads(text)["step"] for text in synced] == [1]


class Seen:
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.rows, self.tables, self.rewound = [], [], []

    def __call__(self, metrics, step):
        self.rows.append((step, metrics))

    def table(self, name, rows, step):
        self.tables.append((name, rows, step))

    def rewind(self, step):
        self.rewound.append(step)


def test_loggers_get_metrics_and_step(tmp_path):
    seen = Seen()
    run = record(tmp_path, loggers=[seen])
    run.rewind(6)
    run.write(7, {"loss": 0.25, "processed_tokens": 20.0}, TIMING, collected())
    run.write_validation(7, {"validation/accuracy": 0.5}, [{"answer": "A"}])
    run.write_validation(8, {"validation/accuracy": 0.5})
    assert seen.tables == [("validation/answers", [{"answer": "A"}], 7)]
    assert [(step, metrics.get("loss")) for step, metrics in seen.rows] == [(7, 0.25), (7, None), (8, None)]
    assert seen.rows[1][1] == {"validation/accuracy": 0.5} and seen.rewound == [6]
    assert rows(run.path)[1] == {"step": 7, "validation/accuracy": 0.5}


def test_parts_of_a_weighted_reward_are_in_metrics_and_samples(tmp_path):
    batch = collected(1)
    parts = [{"correct": 1.0, "own": 0.5}, {"correct": 0.0, "own": -1.5}]
    group = batch.groups[0]
    group.scores = [Score(1.1, "B", "correct", parts[0]), Score(-0.3, None, "no_answer", parts[1])]
    metrics = rollout_metrics(batch, Config())
    assert metrics["reward/mean"] == pytest.approx(0.4)
    assert (metrics["reward/correct"], metrics["reward/own"]) == (0.5, -0.5)
    record(tmp_path).write(1, {"processed_tokens": 20.0}, TIMING, batch)
    assert [row["parts"] for row in rows(tmp_path / "samples" / "step_1.jsonl")] == parts
