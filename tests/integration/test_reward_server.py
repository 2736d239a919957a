"""The real reward server: right scores, clear refusals, and hostile requests beside good ones."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.open_files import raise_file_limit
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardError, RewardItem
from alphamed_nemo.rewards.server import parse_arguments
from tests.integration.hostile import ITEM, KEY, besiege, free_port, http, items, start_server, stop_server

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")
GROWTH_MB = 64  # bodies of several megabytes, up to eight at once, leave about this much behind in the allocator


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("reward") / "server.log")
    yield running
    assert stop_server(running) == 0


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(*arguments: str, api_key: str = ""):
        running.append(start_server(tmp_path / f"server{len(running)}.log", *arguments, api_key=api_key))
        return running[-1]

    yield begin
    for one in running:
        assert stop_server(one) == 0


def test_scores_are_those_of_the_rule(server):
    responses = [
        r"\boxed{C}",
        r"\boxed{A}",
        "none",
        "",
        "\0 ß \ud800 \u2028 \\boxed{C}",
        "x" * 50_000 + r"\boxed{Ibuprofen}",
    ]
    batch = [RewardItem(response, "C", OPTIONS) for response in responses] * 300
    batch.append(RewardItem(r"\boxed{J}", "J", letters="ABCDEFGHIJ"))
    with RewardClient(server.url, RewardConfig(max_batch=500)) as client:
        assert client.score(batch) == score_all(batch)
        assert client.score([]) == []
        assert (client.failures, client.retried) == (0, 0)


def test_many_clients_at_once_each_get_their_own_scores(server):
    def ask(number: int) -> bool:
        letter = "ABCD"[number % 4]
        batch = [RewardItem(rf"\boxed{{{x}}}", letter, OPTIONS) for x in "ABCD" * 50]
        with RewardClient(server.url, RewardConfig()) as client:
            return client.score(batch) == score_all(batch)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(64)))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"items": [' + b"[" * 100_000, 422, "items"),
        (b"[" * 100_000, 422, "object"),
        (b"\xff\xfe", 400, "JSON"),
        (b"{}", 422, "items"),
        (b'{"items": 1}', 422, "array"),
        (items({"response": "x", "answer": "A"}), 422, "either options .* or letters"),
        (items(ITEM | {"options": OPTIONS}), 422, "either options .* or letters"),
        (items(ITEM, ITEM | {"answer": "E"}), 422, r"items\[1\].*'E' is not one of A, B, C, D"),
        (items(ITEM | {"letters": "BCD"}), 422, "letters"),
        (items(ITEM | {"response": None}), 422, "str"),
        (items(ITEM | {"extra": 1}), 422, "unknown field"),
        (items(*[ITEM] * 4097), 422, "4097 items, at most 4096"),
        (items(*[ITEM] * 20_000), 422, "more than 4096 items"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(server, body, status, reason):
    answer = httpx.post(f"{server.url}/score", content=body)
    assert answer.status_code == status
    assert re.search(reason, answer.json()["detail"])


def test_a_response_that_is_too_long_has_no_answer_and_is_counted(start):
    server = start("--max-response-chars", "1000")
    long, longest = [RewardItem(r"\boxed{C}" + " " * size, "C", OPTIONS) for size in (1000 - 9, 1000 - 8)]
    with RewardClient(server.url, RewardConfig()) as client:
        scores = client.score([long, longest])
    assert [(score.reward, score.answer, score.reason) for score in scores] == [
        (1.0, "C", "correct"),
        (0.0, None, "no_answer"),
    ]
    assert "alphamed_reward_too_long_total 1.0" in httpx.get(f"{server.url}/metrics").text


def test_a_body_above_the_limit_is_refused_while_it_is_read(start):
    server = start("--max-body-bytes", "1000000")
    announced = httpx.post(f"{server.url}/score", content=b"x" * 2_000_000)
    assert (announced.status_code, "at most 1000000" in announced.json()["detail"]) == (413, True)
    streamed = httpx.post(f"{server.url}/score", content=(b"x" * 10_000 for _ in range(200)))
    assert (streamed.status_code, "above 1000000" in streamed.json()["detail"]) == (413, True)
    assert httpx.post(f"{server.url}/score", content=items(ITEM)).status_code == 200


def test_token_is_wanted_where_one_is_set(start):
    server = start(api_key="secret")
    assert httpx.post(f"{server.url}/score", content=items(ITEM)).status_code == 401
    wrong = httpx.post(f"{server.url}/score", content=items(ITEM), headers={"Authorization": "Bearer secreT"})
    assert wrong.status_code == 401
    with RewardClient(server.url, RewardConfig(api_key="secret")) as client:
        assert client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])[0].reward == 1.0
    with RewardClient(server.url, RewardConfig()) as client:
        with pytest.raises(RewardError, match="401"):
            client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
        assert client.failures == 1
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "protocol": "boxed"}


def test_protocol_and_limits_come_from_config_and_command_line(start, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("run: {name: x}\nreward: {protocol: lenient, max_batch: 2, port: 1}\n")
    server = start("--config", str(config))
    answer = httpx.post(f"{server.url}/score", content=items(ITEM | {"response": "The answer is C."}))
    assert answer.json() == {"protocol": "lenient", "scores": [{"reward": 1.0, "answer": "C", "reason": "correct"}]}
    assert httpx.post(f"{server.url}/score", content=items(ITEM, ITEM, ITEM)).status_code == 422


def test_metrics_count_items_rewards_and_refusals(start):
    server = start()
    httpx.post(f"{server.url}/score", content=items(ITEM, ITEM, ITEM | {"answer": "A"}, ITEM | {"response": "?"}))
    httpx.post(f"{server.url}/score", content=b"{")
    text = httpx.get(f"{server.url}/metrics").text
    for line in (
        'alphamed_reward_requests_total{status="200"} 1.0',
        'alphamed_reward_requests_total{status="400"} 1.0',
        'alphamed_reward_items_total{result="correct"} 2.0',
        'alphamed_reward_items_total{result="wrong"} 1.0',
        'alphamed_reward_items_total{result="no_answer"} 1.0',
        "alphamed_reward_sum_total 2.0",
        "alphamed_reward_failures_total 1.0",
        "alphamed_reward_request_seconds_count 1.0",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("hostile", "good", "idle"), [(300, 50, 60), pytest.param(10_000, 1_000, 500, marks=pytest.mark.nightly)]
)
def test_good_requests_are_answered_beside_hostile_ones_and_nothing_is_left_of_either(start, hostile, good, idle):
    server = start(api_key=KEY)
    besiege(server, 200, 10, 10, seed=0)  # what is allocated once
    siege = besiege(server, hostile, good, idle)
    assert siege.wrong == 0, siege
    assert siege.rss_mb[1] < siege.rss_mb[0] + GROWTH_MB, siege
    assert siege.files[1] <= siege.files[0], siege
    assert siege.statuses["422"] > hostile / 5 and siege.statuses["401"] > hostile / 50, siege


def test_more_idle_connections_than_file_descriptors_do_not_keep_others_out(start):
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    with ExitStack() as standing:
        raise_file_limit()
        idle = [standing.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(1500)]
        for connection in idle[::2]:
            with suppress(ConnectionError):  # closed already, in favour of later ones
                connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.post(f"{server.url}/score", content=items(ITEM)).status_code == 200


def test_too_few_file_descriptors_are_an_error_at_the_start(tmp_path):
    argv = [sys.executable, "-m", "alphamed_nemo.rewards.server", "--port", str(free_port())]
    done = subprocess.run(["prlimit", "--nofile=512:512", *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: at most 512 file descriptors (ulimit -Hn), expected at least 1024; raise the limit\n"


def test_a_full_server_asks_for_time_and_the_client_gives_it(start, monkeypatch):
    """Its own 429: bodies that do not come to an end fill its budget of bytes, until their clients leave."""
    server = start("--max-body-bytes", "20000")  # and four times as much of all bodies together
    pauses: list[float] = []
    with ExitStack() as slow:
        for _ in range(4):
            connection = slow.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(http(b"x" * 19_990, head="Content-Length: 19999\r\n"))
        while (refused := httpx.post(f"{server.url}/score", content=items(ITEM))).status_code == 200:
            pass  # it has not read all of them yet
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
        assert refused.json() == {"detail": "more than 80000 bytes in flight; try again later"}
        monkeypatch.setattr(time, "sleep", lambda pause_s: (pauses.append(pause_s), slow.close()))
        with RewardClient(server.url, RewardConfig()) as client:
            (score,) = client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
            assert (score.reward, client.retried, client.failures) == (1.0, len(pauses), 0)
    assert pauses and min(pauses) >= 1.0  # no less than the server asked for


def test_the_health_of_this_runs_server_is_accepted(server):
    with RewardClient(server.url, RewardConfig()) as client:
        client.check_server()


def test_an_item_that_cannot_be_graded_is_the_callers_mistake(server):
    with RewardClient(server.url, RewardConfig()) as client, pytest.raises(ValueError, match="item 1: answer 'E'"):
        client.score([RewardItem("", "A", OPTIONS), RewardItem("", "E", OPTIONS)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "strict", "--port", "1234"], "strict"),
        (["--port", "70000"], "port 70000"),
        ([], "give --port"),
        (["--port", "1234", "--host", "0.0.0.0"], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", "0"], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", "::"], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", "[::]"], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", ""], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", "10.1.2.3"], "ALPHAMED_REWARD_API_KEY"),
        (["--port", "1234", "--host", "node7"], "ALPHAMED_REWARD_API_KEY"),
        (["--config", "missing.yaml", "--port", "1234"], "missing.yaml"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("ALPHAMED_REWARD_API_KEY", raising=False)
    with pytest.raises(SystemExit) as exit:
        parse_arguments(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key_and_other_addresses_may_be_listened_on_with_one(host, monkeypatch):
    monkeypatch.delenv("ALPHAMED_REWARD_API_KEY", raising=False)
    assert parse_arguments(["--port", "1234", "--host", host])[0].host == host
    monkeypatch.setenv("ALPHAMED_REWARD_API_KEY", "secret")
    assert parse_arguments(["--port", "1234", "--host", "0.0.0.0"])[0].api_key == "secret"


def test_an_unknown_key_in_the_config_is_named(tmp_path, capsys):
    path = Path(tmp_path) / "config.yaml"
    path.write_text("reward: {protocl: boxed}\n")
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(path), "--port", "1234"])
    assert "unknown key reward.protocl" in capsys.readouterr().err
