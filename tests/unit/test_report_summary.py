"""summary.json, the number formats and axes of the charts, and progress on the screen."""

import io
import json

import pytest
import torch
from rich.console import Console

from alphamed_nemo.cli.progress import GrpoProgress, MetricsFollower, Stages, duration, step_text
from alphamed_nemo.report.run_data import read_metrics
from alphamed_nemo.report.scale import Axis, nice_ticks, number, padded_range, smooth
from alphamed_nemo.report.summary import write_summary
from tests.unit.synthetic_run import make_run, write_lines


def test_the_summary_says_what_the_run_came_to(tmp_path):
    root = make_run(tmp_path / "quickstart")
    path = write_summary(root, {"Evaluate": 25.0, "Report": 0.5})
    summary = json.loads(path.read_text())
    rows = read_metrics(root / "metrics.jsonl")
    assert summary["steps"] == 40 and summary["parallel"] == {"tensor": 2, "pipeline": 1, "data": 1}
    assert summary["accuracies"]["trained"]["accuracy"] == 0.9583 and summary["accuracies"]["trained"]["n"] == 384
    assert summary["accuracies"]["base"]["interval"] == pytest.approx([0.2252, 0.2802])
    assert summary["logprob_difference_max"] == max(row["logprob_difference_max"] for row in rows)
    assert summary["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert list(summary["stage_seconds"].items())[-2:] == [("Evaluate", 25.0), ("Report", 0.5)]
    assert summary["stage_seconds"]["Prepare data"] == 4.2, "earlier stages stay"


def test_a_step_written_twice_counts_once(tmp_path):
    write_lines(tmp_path / "m.jsonl", [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 2, "a": 3}])
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "a": 1}, {"step": 2, "a": 3}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (0.05, "0.05"),
        (1234, "1,234"),
        (12.345, "12.3"),
        (2.4e-7, "2.4e-7"),
        (20000, "2e4"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_axes_and_ticks():
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(3, 40, 7) == [10, 20, 30, 40]
    assert Axis(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert padded_range([2e-7, 3e-5], log=True) == pytest.approx((1e-7, 1e-4))
    assert padded_range([]) == (0.0, 1.0)


def test_smoothing_keeps_a_straight_line_and_the_ends():
    line = [0.5 * i for i in range(20)]
    assert smooth(line, 5) == pytest.approx(line)


@pytest.mark.parametrize(("seconds", "text"), [(8.43, "8.4 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def make_console(terminal, width=160):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)


ROW = {"step": 3, "reward/mean": 0.5, "effective_query_ratio": 0.75, "response_length/mean": 31.6, "timing/step": 2.5}


def test_without_a_terminal_each_step_is_one_plain_line():
    console = make_console(terminal=False)
    with GrpoProgress(40, console) as progress:
        for step in (1, 2, 2, 1, 3):  # a resumed run's rows come again
            progress.update(ROW | {"step": step})
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[2] == "step  3/40  reward 0.50  effective 75%  length 32  2.5 s"


@pytest.mark.parametrize("width", [60, 160])
def test_on_a_terminal_there_is_a_bar_and_nothing_of_it_is_cut(width):
    console = make_console(terminal=True, width=width)
    with GrpoProgress(400, console) as progress:
        progress.update(ROW | {"token_mult_prob_error": 1.00001, "timing/training": 0.9})
    shown = console.file.getvalue()
    assert "3/400" in shown and "reward 0.50" in shown and "training 0.9" in shown and "…" not in shown


def test_on_a_terminal_the_last_steps_numbers_stay():
    console = make_console(terminal=True)
    with GrpoProgress(3, console) as progress:
        progress.update(ROW | {"step": 3})
        assert progress.bar is not None
        saving = list(progress.bar.get_renderables())
    ended = list(progress.bar.get_renderables())
    assert [line.renderable for line in saving[1:]] == [step_text(ROW), "saving, then stopping the trainer"]
    assert [line.renderable for line in ended[1:]] == [step_text(ROW)]


def test_a_step_that_fewer_rollout_servers_have_sampled_says_so():
    console = make_console(terminal=False)
    with GrpoProgress(9, console, servers=3) as progress:
        progress.update(ROW | {"step": 1, "rollout_servers": 3.0})
        progress.update(ROW | {"step": 2, "rollout_servers": 2.0})
    first, second = console.file.getvalue().splitlines()
    assert "rollout servers" not in first and second.endswith("2.5 s  2 of 3 rollout servers")


def test_a_step_shows_where_its_time_went():
    row = ROW | {"timing/generation": 1.2, "timing/training": 0.9, "timing/refit": 0.06}
    assert step_text(row).endswith("2.5 s (sampling 1.2, training 0.9, refit 0.1)")


def test_stages_are_numbered_and_timed_also_when_one_fails():
    console = make_console(terminal=False)
    stages = Stages(2, console)
    with stages.stage("Prepare data", note="clinic"):
        pass
    with pytest.raises(KeyError), stages.stage("Train"):
        raise KeyError("broken")
    assert list(stages.seconds) == ["Prepare data", "Train"]
    assert console.file.getvalue().splitlines()[0] == "[1/2] Prepare data  clinic"


def test_the_follower_reads_complete_rows_and_notices_a_rewrite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = MetricsFollower(path)
    assert follower.new_rows() == []
    write_lines(path, [{"step": 1}])
    assert follower.new_rows() == [{"step": 1}]
    with path.open("a") as file:
        file.write('{"step": 2}\n{"step"')
    assert follower.new_rows() == [{"step": 2}]
    with path.open("a") as file:
        file.write(": 3}\n")
    assert follower.new_rows() == [{"step": 3}]
    write_lines(path, [{"step": 1}])
    assert follower.new_rows() == [{"step": 1}]


VALIDATED = {
    "step": 10,
    "validation/accuracy": 0.625,
    "validation/accuracy_low": 0.551,
    "validation/accuracy_high": 0.69,
    "validation/questions": 200.0,
    "validation/guessing": 0.25,
    "validation/unparsable_ratio": 0.02,
    "validation/gain": 0.125,
    "validation/gain_low": 0.04,
    "validation/gain_high": 0.2,
    "timing/validation": 5.25,
}
ACCURACY = "accuracy 62.5% (95% interval 55.1 to 69.0, n = 200)"
GAIN = "+12.5 points (+4.0 to +20.0) over the base model"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_validation_has_a_line_of_its_own_once(terminal):
    console = make_console(terminal=terminal)
    with GrpoProgress(40, console) as progress:
        progress.update(VALIDATED | {"step": 0, "validation/unparsable_ratio": 0.0})
        progress.update(ROW | {"step": 10})
        for _ in range(2):  # a resumed run's rows come again
            progress.update(VALIDATED)
        line = f"after step 10: {ACCURACY}  {GAIN}  2% without an answer  5.2 s"
        if progress.bar is not None:
            shown = [part.renderable for part in list(progress.bar.get_renderables())[1:]]
            assert shown == [step_text(ROW), f"validation {line}"]
        else:
            assert console.file.getvalue().splitlines() == [
                f"validation of the base model: {ACCURACY}  5.2 s",
                f"step 10/40  {step_text(ROW)}",
                f"validation {line}",
            ]


def test_after_the_last_step_of_a_run_that_validates_a_validation_comes_first():
    console = make_console(terminal=False)
    with GrpoProgress(1, console) as progress:
        progress.update(VALIDATED | {"step": 0})
        progress.update(ROW | {"step": 1})
    assert console.file.getvalue().splitlines()[-1] == "validating and saving, then stopping the trainer …"


def test_a_step_and_its_validation_are_one_row(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [VALIDATED | {"step": 0}, {"step": 10, "reward/mean": 0.5}, VALIDATED])
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 10] and rows[1] == VALIDATED | {"reward/mean": 0.5}
