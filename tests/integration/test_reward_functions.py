"""A user's own reward functions through the real server: same scores, refusals with their reason, settings."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import msgspec
import pytest

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.rewards.functions import RewardFunctions
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardError, RewardItem
from tests.integration.hostile import start_server, stop_server

FORMAT, LENGTH = "examples/format_reward.py:format_reward", "examples/length_reward.py:length_reward"
CFG = RewardConfig(functions=["correct", FORMAT, LENGTH], weights=[1.0, 0.2, -0.1], max_batch=7)
ARGUMENTS = [f"--function={name}={weight!r}" for name, weight in CFG.weighted.items()]


def asked(response: str, number: int = 1, **metadata) -> RewardItem:
    question = Question(f"q{number}", "own", "Which?", ("Aspirin", "Warfarin"), "B", level=number, metadata=metadata)
    return RewardItem(response, "B", question.options, prompt=f"<user>Which? {number}", question=question)


@pytest.fixture
def start(tmp_path: Path):
    running = []

    def begin(*arguments: str):
        running.append(start_server(tmp_path / f"server{len(running)}.log", *arguments))
        return running[-1]

    yield begin
    for one in running:
        assert stop_server(one) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("reward") / "server.log", *ARGUMENTS)
    yield running
    assert stop_server(running) == 0


def test_the_server_gives_the_scores_of_the_functions(start):
    items = [
        asked(text, number, words=number, nested={"response": ["ß \ud800", None, number]}, notes="\ud800")
        for number, text in enumerate([r"\boxed{B}", r"one two three four five \boxed{B}", "none", r"\boxed{A}"] * 5, 1)
    ]
    server = start(*ARGUMENTS, "--max-batch", "7")
    with RewardClient(server.url, CFG) as client:
        assert client.score(items) == RewardFunctions(CFG).score_all(items)
        assert client.failures == client.retried == 0
    assert "alphamed_reward_weighted_sum" in httpx.get(f"{server.url}/metrics").text


def test_negative_rewards_are_counted_and_not_an_error(start):
    cfg = RewardConfig(functions=["correct"], weights=[-1.0])
    server = start("--function=correct=-1.0")
    with RewardClient(server.url, cfg) as client:
        assert [score.reward for score in client.score([asked(r"\boxed{B}")])] == [-1.0]
    assert "alphamed_reward_weighted_sum -1.0" in httpx.get(f"{server.url}/metrics").text


def test_a_function_that_fails_refuses_the_request_by_name(start, tmp_path):
    (tmp_path / "own.py").write_text(
        "def own(response):\n    if response == 'nan':\n        return float('nan')\n    return {'good': 1}[response]\n"
    )
    place = f"{tmp_path}/own.py:own"
    server = start(f"--function={place}=1")
    with RewardClient(server.url, RewardConfig(functions=[place])) as client:
        assert client.score([asked("good")])[0].reward == 1.0
        with pytest.raises(RewardError, match=r"422.*items\[1\] \(question q3\): own raised KeyError: .*bad"):
            client.score([asked("good"), asked("bad", 3)])
        with pytest.raises(RewardError, match="own returned nan, expected a finite number"):
            client.score([asked("nan")])
        assert (client.failures, client.retried) == (2, 0)
    assert "KeyError" in server.log.read_text()
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": None}, "Expected `object`"),
        ({"prompt": 1}, "Expected `str`"),
        ({"extra": 1}, "unknown field"),
        ({"options": [], "letters": "AB"}, "send its options"),
        ({"options": ["same", "same"]}, "duplicate options"),
        ({"question": {"id": "q", "dataset": "own", "stem": " "}}, "empty stem"),
        ({"question": {"id": "q", "dataset": "own", "stem": "s", "metadata": 3}}, "Expected `object`"),
    ],
)
def test_a_request_without_a_whole_question_is_refused(server, change, reason):
    item = {"response": "x", "answer": "B", "options": ["a", "b"], "prompt": "p"}
    item |= {"question": {"id": "q", "dataset": "own", "stem": "s"}}
    good = httpx.post(f"{server.url}/score", content=msgspec.json.encode({"items": [item]}))
    assert good.status_code == 200
    answer = httpx.post(f"{server.url}/score", content=msgspec.json.encode({"items": [item | change]}))
    assert answer.status_code == 422
    assert re.search(reason, answer.json()["detail"])


def test_a_server_with_other_functions_than_the_run_is_an_error(start):
    plain = start()
    with RewardClient(plain.url, RewardConfig(functions=["correct"])) as client:
        with pytest.raises(RewardError, match="has the functions none but the rule, this run correct"):
            client.score([asked("x")])
    weighted = start("--function=correct=1")
    with RewardClient(weighted.url, RewardConfig()) as client:
        with pytest.raises(RewardError, match="has the functions correct, this run none but the rule"):
            client.score([asked("x")])


def test_a_server_whose_function_cannot_be_loaded_does_not_come_up(start, tmp_path):
    (tmp_path / "own.py").write_text("import nosuch\ndef own():\n    return 1\n")
    with pytest.raises(
        RuntimeError, match=r"error: reward\.functions: .*own\.py could not be imported: ModuleNotFound"
    ):
        start(f"--function={tmp_path}/own.py:own=1")


def test_a_runs_config_yaml_configures_a_server_too(start, tmp_path):
    (tmp_path / "config.yaml").write_text(f"reward: {{functions: [correct, '{FORMAT}'], weights: [1, 0.5], port: 1}}\n")
    server = start("--config", str(tmp_path / "config.yaml"))
    with RewardClient(server.url, RewardConfig(functions=["correct", FORMAT], weights=[1, 0.5])) as client:
        assert client.score([asked(r"one two three four five \boxed{B}")])[0].reward == 1.5
