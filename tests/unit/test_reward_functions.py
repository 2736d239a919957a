"""Rewards of a user's own: the weighted sum, its parts, and what is refused rather than scored 0."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from alphamed_nemo.cli.preflight import check_run
from alphamed_nemo.config import Config, RewardConfig
from alphamed_nemo.config.files import load_config, write_config
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.rollout_metrics import reward_parts
from alphamed_nemo.launch.components import reward_server
from alphamed_nemo.rewards.functions import FunctionFailed, RewardFunctions, check_functions
from alphamed_nemo.rewards.request import Refused, parse_items
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardItem, Score
from alphamed_nemo.rewards.server import parse_arguments

QUESTION = Question("q7", "own", "Which?", ("Aspirin", "Warfarin"), "B", level=2, metadata={"words": 10})
FORMAT, LENGTH = "examples/format_reward.py:format_reward", "examples/length_reward.py:length_reward"
GATE = "examples/format_gate.py:format_gate"


def item(response: str) -> RewardItem:
    return RewardItem(response, QUESTION.answer, QUESTION.options, prompt="Which? Think first.", question=QUESTION)


@pytest.fixture
def own(tmp_path: Path):
    """Writes a file and names a function in it."""

    def write(source: str, name: str = "own") -> str:
        path = tmp_path / f"{name}_reward.py"
        path.write_text(source)
        return f"{path}:{name}"

    return write


def test_without_functions_a_score_travels_as_it_always_has():
    scores = score_all([item(r"\boxed{B}"), item("none")])
    assert msgspec.json.encode({"protocol": "boxed", "scores": scores}) == (
        b'{"protocol":"boxed","scores":[{"reward":1.0,"answer":"B","reason":"correct"},'
        b'{"reward":0.0,"answer":null,"reason":"no_answer"}]}'
    )
    component = reward_server(Config())
    assert not [argument for argument in component.argv if "function" in argument]


def test_the_examples_give_their_weighted_sum_and_their_parts():
    functions = RewardFunctions(RewardConfig(functions=["correct", FORMAT, LENGTH], weights=[1.0, 0.2, 0.1]))
    reasoned, short, wrong = functions.score_all(
        [item(r"one two three four five \boxed{B}."), item(r"\boxed{B}"), item(r"a b c d e \boxed{B} or \boxed{A}")]
    )
    assert reasoned.parts == {
        "correct": 1.0,
        "format_reward": 1.0,
        "format_reward/reasons": 0.5,
        "format_reward/one_box": 0.5,
        "length_reward": pytest.approx(0.4),
    }
    assert reasoned.reward == pytest.approx(1.0 + 0.2 * 1.0 + 0.1 * 0.4)
    assert short.reward == pytest.approx(1.0 + 0.2 * 0.5 + 0.1 * 0.9)
    assert (wrong.reason, wrong.parts["length_reward"], wrong.reward) == ("wrong", 0.0, pytest.approx(0.2 * 0.5))


@pytest.mark.parametrize(
    ("level", "metadata", "value"),
    [(1, {}, 0.9), (4, {}, 0.975), (None, {}, 0.95), (4, {"words": 20}, 0.5)],
)
def test_a_harder_question_gives_a_right_answer_more_room(level: int | None, metadata: dict, value: float) -> None:
    by_level = LENGTH.partition(":")[0] + ":length_reward_by_level"
    functions = RewardFunctions(RewardConfig(functions=[by_level]))
    question = replace(QUESTION, level=level, metadata=metadata)
    text = "word " * 9
    right, wrong = (
        RewardItem(rf"{text}\boxed{{{letter}}}", question.answer, question.options, prompt="", question=question)
        for letter in "BA"
    )
    scores = functions.score_all([right, wrong])
    assert [score.parts["length_reward_by_level"] for score in scores] == [pytest.approx(value), 0.0]


@pytest.mark.parametrize(
    ("response", "correct", "gate"),
    [
        (r"It thins the blood by vitamin K, so \boxed{B}.", 1.0, 1.0),
        (r"\boxed{B}", 1.0, 0.0),
        (r"It thins the blood by vitamin K, so \boxed{B}, as I said before.", 1.0, 0.0),
        (r"It is \boxed{A} or rather it is in fact \boxed{B}", 1.0, 0.0),
        (r"It thins the blood by vitamin K, so \boxed{A}.", 0.0, 0.0),
        ("It thins the blood by vitamin K.", 0.0, 0.0),
    ],
)
def test_a_gate_rewards_right_answers_in_the_right_form_alone(response: str, correct: float, gate: float):
    functions = RewardFunctions(RewardConfig(functions=["correct", GATE], weights=[0.0, 1.0]))
    (score,) = functions.score_all([item(response)])
    assert score.parts == {"correct": correct, "format_gate": gate} and score.reward == gate


def test_any_weights_and_values_give_their_exact_sum(own):
    draw = random.Random(1)
    place = own("def own(response):\n    return float(response)\n")
    for _ in range(100):
        weights = [draw.uniform(-2, 2), draw.uniform(-2, 2)]
        value = draw.uniform(-1e6, 1e6)
        (score,) = RewardFunctions(RewardConfig(functions=[place, "correct"], weights=weights)).score_all(
            [item(repr(value))]
        )
        assert score.reward == pytest.approx(math.fsum([weights[0] * value, weights[1] * 0.0]))
        assert score.parts == {"correct": 0.0, "own": value}


@pytest.mark.parametrize("value", ["1e300", "-1e10"])
def test_a_reward_beyond_all_bounds_is_an_error(own, value):
    place = own("def own(response):\n    return float(response)\n")
    with pytest.raises(FunctionFailed, match="own returned .*, expected at most ±1e[+]09"):
        RewardFunctions(RewardConfig(functions=[place])).score_all([item(value)])
    with pytest.raises(FunctionFailed, match="the weighted sum .* expected at most ±1e[+]09"):
        RewardFunctions(RewardConfig(functions=[place], weights=[1e3])).score_all([item("1e8")])


def test_a_response_that_the_rule_does_not_read_is_the_functions_to_judge(own):
    place = own("def own(response):\n    return len(response)\n")
    functions = RewardFunctions(RewardConfig(functions=[place, "correct"], max_response_chars=20))
    (score,) = functions.score_all([item(r"\boxed{B}" + " " * 20)])
    assert (score.reason, score.parts) == ("no_answer", {"correct": 0.0, "own": 29.0})


def test_a_function_gets_what_it_asks_for(own):
    place = own(
        "def own(*, metadata, question, prompt, response, more=1):\n"
        "    assert metadata is question.metadata and question.level == 2 and question.dataset == 'own'\n"
        "    return len(prompt) + len(response) + metadata['words'] + more\n"
    )
    (score,) = RewardFunctions(RewardConfig(functions=[place])).score_all([item("four")])
    assert score.reward == len("Which? Think first.") + 4 + 10 + 1
    (score,) = RewardFunctions(
        RewardConfig(functions=[own("def all_of_it(**given):\n    return len(given)\n", "all_of_it")])
    ).score_all([item("")])
    assert score.reward == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('x')", r"items\[0\] \(question q7\): own raised KeyError"),
        ("return None", "returned 'None' .NoneType., expected a number"),
        ("return '1'", "expected a number"),
        ("return [1.0]", "expected a number"),
        ("return float('nan')", "returned nan, expected a finite number"),
        ("return -float('inf')", "returned -inf"),
        ("return 10 ** 400", "returned inf"),
        ("return {}", "returned no part"),
        ("return {'a': 1.0, 'b': None}", "own: b returned 'None'"),
        ("return {'a b': 1.0}", "names a part 'a b'"),
        ("return {'a': 1e308, 'b': 1e308}", "own"),
    ],
)
def test_what_is_no_finite_number_is_an_error_and_no_reward_of_0(own, body, message):
    functions = RewardFunctions(RewardConfig(functions=["correct", own(f"def own(response):\n    {body}\n")]))
    with pytest.raises(FunctionFailed, match=message):
        functions.score_all([item("x")])


def test_a_sum_that_overflows_is_an_error(own):
    functions = RewardFunctions(RewardConfig(functions=[own("def own():\n    return 1e9\n")], weights=[1e300]))
    with pytest.raises(FunctionFailed, match="weighted sum"):
        functions.score_all([item("x")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"functions": ["examples/nosuch.py:f"]}, r"reward\.functions: no file .*nosuch\.py"),
        ({"functions": ["examples/format_reward.py:nosuch"]}, "has no 'nosuch'; it defines format_reward"),
        ({"functions": ["no.such.module:f"]}, "no module 'no.such.module'"),
        ({"functions": ["correkt"]}, "found 'correkt', expected correct"),
        ({"functions": [f"{FORMAT}.x"]}, "expected file.py:name"),
        ({"functions": ["correct", "correct"]}, "have one name"),
        ({"functions": [FORMAT, FORMAT]}, "have one name"),
        ({"functions": ["correct"], "weights": [1.0, 2.0]}, r"reward\.weights: found 2 for 1"),
        ({"weights": [1.0]}, r"reward\.weights: found 1 for 0"),
        ({"functions": ["correct"], "weights": [math.nan]}, "found nan, expected finite"),
        ({"functions": ["correct"], "weights": [-math.inf]}, "found -inf, expected finite"),
        ({"functions": ["correct"], "weights": [0.0]}, "all are 0"),
    ],
)
def test_a_wrong_setting_is_known_before_any_process(settings, message):
    cfg = Config(reward=RewardConfig(**settings))
    with pytest.raises(ValueError, match=message):
        check_run(cfg)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def own(response:\n", "is not Python"),
        ("def own(completions):\n    return 1\n", "asks for 'completions'; expected arguments out of prompt, response"),
        ("def own(response, *, step):\n    return 1\n", "asks for 'step'"),
        ("def own(response, /):\n    return 1\n", "positional-only"),
        ("async def own(response):\n    return 1\n", "async"),
        ("def other(response):\n    return 1\n", "has no 'own'; it defines other"),
    ],
)
def test_a_file_that_cannot_work_is_known_without_running_it(own, source, message):
    with pytest.raises(ValueError, match=message):
        check_functions(RewardConfig(functions=[own(f"raise SystemExit('run')\n{source}")]))


@pytest.mark.parametrize(
    "source",
    [
        "from math import sqrt as own\n",
        "own = lambda response: 1\n",
        "if True:\n    def own(response):\n        return 1\n",
        "try:\n    import nosuch\nexcept ImportError:\n    own = abs\n",
        "class own:\n    def __new__(cls, response):\n        return 1\n",
    ],
)
def test_a_name_may_be_bound_in_any_way(own, source):
    check_functions(RewardConfig(functions=[own(source)]))


@pytest.mark.parametrize("name", ["mean", "correct"])
def test_names_of_the_metrics_own_are_refused(own, name):
    with pytest.raises(ValueError, match="another meaning"):
        check_functions(RewardConfig(functions=[own(f"def {name}():\n    return 1\n", name)]))


@pytest.mark.parametrize("source", ["import nosuch\ndef own():\n    return 1\n", "def own():\n    return 1\nown = 3\n"])
def test_what_only_shows_when_it_is_loaded_is_named_too(own, source):
    with pytest.raises(ValueError, match=r"^reward\.functions: "):
        RewardFunctions(RewardConfig(functions=[own(source)]))


def test_the_servers_command_line_carries_functions_and_weights():
    cfg = Config()
    cfg.reward.functions, cfg.reward.weights = ["correct", FORMAT], [1.0, -1e-07]
    argv = reward_server(cfg).argv
    served, _ = parse_arguments(argv[argv.index("alphamed_nemo.rewards.server") + 1 :])
    assert served.weighted == cfg.reward.weighted == {"correct": 1.0, FORMAT: -1e-07}


def test_config_yaml_keeps_them(tmp_path):
    cfg = Config()
    cfg.reward.functions, cfg.reward.weights = ["correct", FORMAT], [1.0, 0.25]
    write_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").reward.weighted == {"correct": 1.0, FORMAT: 0.25}


def test_prompt_and_question_are_refused_where_no_function_reads_them():
    body = msgspec.json.encode({"items": [{"response": "x", "answer": "A", "letters": "AB", "prompt": "p"}]})
    with pytest.raises(Refused, match="unknown field `prompt`"):
        parse_items(body, RewardConfig())
    with pytest.raises(Refused, match="missing required field `question`"):
        parse_items(body, RewardConfig(functions=[FORMAT]))


def test_metrics_are_means_over_the_responses_that_have_the_part():
    scores = [
        Score(1.0, "A", "correct", {"correct": 1.0, "own": 0.5, "own/a": 0.5}),
        Score(0.0, None, "no_answer", {"correct": 0.0, "own": -0.5}),
    ]
    assert reward_parts(scores) == {"reward/correct": 0.5, "reward/own": 0.0, "reward/own/a": 0.5}
    assert reward_parts(score_all([item("x")])) == {}
