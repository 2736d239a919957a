"""The real reward server and its client: right scores, clear refusals, failures that are no rewards."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardError, RewardItem
from tests.integration.hostile import ITEM, bombard, free_port, items, start_server, stop_server

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")
HOSTILE_REQUESTS = int(os.environ.get("ALPHAMED_HOSTILE_REQUESTS", "1000"))
GROWTH_MB = 40  # a body of the largest allowed size leaves about this much behind in the allocator


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
        (items(ITEM | {"response": "x" * 200_001}), 422, "200001 characters, at most 200000"),
        (items(*[ITEM] * 4097), 422, "4097 items, at most 4096"),
        (items(*[ITEM] * 20_000), 422, "more than 4096 items"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(server, body, status, reason):
    answer = httpx.post(f"{server.url}/score", content=body)
    assert answer.status_code == status
    assert re.search(reason, answer.json()["detail"])


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


def test_hostile_requests_leave_it_answering_with_flat_memory(server):
    bombard(server, 200, seed=0)
    before = server.rss_mb()
    statuses = bombard(server, HOSTILE_REQUESTS)
    assert statuses["422"] > HOSTILE_REQUESTS / 5
    assert server.rss_mb() < before + GROWTH_MB, statuses


def test_idle_connections_do_not_keep_others_out(server):
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for connection in idle[:50]:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert httpx.post(f"{server.url}/score", content=items(ITEM)).status_code == 200
    finally:
        for connection in idle:
            connection.close()


def test_no_server_is_an_error_and_a_failure_never_a_reward():
    cfg = RewardConfig(retries=2, request_timeout_s=2.0)
    with RewardClient(f"http://127.0.0.1:{free_port()}", cfg) as client:
        with pytest.raises(RewardError, match="no scores for 1 responses after 3 attempts"):
            client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
        assert (client.failures, client.retried) == (1, 2)


class Answers:
    """A server on a socket that gives these raw answers, one a connection; None closes without one."""

    def __init__(self, *answers: bytes | None) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, args=(answers,), daemon=True)
        self.thread.start()

    def _serve(self, answers) -> None:
        for answer in answers:
            connection, _ = self.socket.accept()
            with connection:
                received = b""
                while b"}]}" not in received:
                    received += connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)

    @staticmethod
    def json(content: object, status: str = "200 OK") -> bytes:
        body = json.dumps(content).encode()
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


GOOD = {"scores": [{"reward": 1.0, "answer": "C", "reason": "correct"}]}


@pytest.mark.parametrize(
    "failures",
    [
        [None],
        [Answers.json({"detail": "busy"}, "503 Service Unavailable")],
        [Answers.json({"scores": []})],
        [Answers.json({"scores": [{"reward": None, "answer": None, "reason": "wrong"}]})],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"],
        [b"not HTTP at all\r\n\r\n"],
        [Answers.json("oops", "500 Internal Server Error"), None],
    ],
)
def test_passing_failures_are_retried_and_nothing_is_made_up(failures):
    server = Answers(*failures, Answers.json(GOOD))
    with RewardClient(server.url, RewardConfig(retries=3, request_timeout_s=5.0)) as client:
        (score,) = client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
        assert (score.reward, client.retried, client.failures) == (1.0, len(failures), 0)


def test_a_server_that_never_answers_runs_into_the_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cfg = RewardConfig(retries=1, request_timeout_s=0.2)
        with RewardClient(f"http://127.0.0.1:{silent.getsockname()[1]}", cfg) as client:
            with pytest.raises(RewardError, match="Timeout"):
                client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
            assert client.failures == 1


def test_an_item_that_cannot_be_graded_is_the_callers_mistake(server):
    with RewardClient(server.url, RewardConfig()) as client, pytest.raises(ValueError, match="item 1: answer 'E'"):
        client.score([RewardItem("", "A", OPTIONS), RewardItem("", "E", OPTIONS)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "strict", "--port", "1234"], "strict"),
        (["--port", "70000"], "port 70000"),
        ([], "give --port"),
        (["--config", "missing.yaml", "--port", "1234"], "missing.yaml"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(arguments, message, capsys):
    from alphamed_nemo.rewards.server import parse_arguments

    with pytest.raises(SystemExit) as exit:
        parse_arguments(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_the_config_is_named(tmp_path, capsys):
    from alphamed_nemo.rewards.server import parse_arguments

    path = Path(tmp_path) / "config.yaml"
    path.write_text("reward: {protocl: boxed}\n")
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(path), "--port", "1234"])
    assert "unknown key reward.protocl" in capsys.readouterr().err
