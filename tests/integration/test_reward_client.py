"""The reward client and servers that fail, say too little or are none of ours: no failure becomes a reward."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardError, RewardItem
from tests.integration.hostile import free_port

QUESTION = Question("q", "own", "Which?", ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol"), "C")
OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Metoprolol")


def test_no_server_is_an_error_and_a_failure_never_a_reward():
    cfg = RewardConfig(retries=2, request_timeout_s=0.3)
    with RewardClient(f"http://127.0.0.1:{free_port()}", cfg) as client:
        with pytest.raises(
            RewardError, match=r"/score: no scores for 1 responses after \d attempts in [01] s; the last: Conn"
        ):
            client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
        assert client.failures == 1 and client.retried >= 1


class Answers:
    """A server on a socket that gives these raw answers, one a connection; None closes without one."""

    def __init__(self, *answers: bytes | None, until: bytes = b"}]}") -> None:
        self.until = until  # the end of a request
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, args=(answers,), daemon=True)
        self.thread.start()

    def _serve(self, answers) -> None:
        for answer in answers:
            connection, _ = self.socket.accept()
            with connection:
                received = b""
                while self.until not in received:
                    received += connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)

    @staticmethod
    def http(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
        return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

    @staticmethod
    def json(content: object, status: str = "200 OK", head: str = "") -> bytes:
        return Answers.http(json.dumps(content).encode(), status, head)


SCORE = {"reward": 1.0, "answer": "C", "reason": "correct"}
GOOD = {"protocol": "boxed", "scores": [SCORE]}


@pytest.mark.parametrize(
    "failures",
    [
        [None],
        [Answers.json({"detail": "busy"}, "503 Service Unavailable")],
        [Answers.json({"detail": "busy"}, "429 Too Many Requests", "Retry-After: 0\r\n")] * 5,
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


def answering(**changed: object) -> bytes:
    return Answers.json({"protocol": "boxed", "scores": [SCORE | changed]})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answers.http(b"<html>Sign in</html>"), "found '<html>Sign in</html>', expected .*protocol.*scores"),
        (Answers.http(b""), "found 'nothing', expected"),
        (Answers.http(b"\xff\xfe"), "expected .*scores"),
        (Answers.http(b"[" * 100_000), "expected .*scores"),
        (Answers.json({}), r"found '\{\}', expected .*missing required field `protocol`"),
        (Answers.json([]), r"found '\[\]', expected"),
        (Answers.json(None), "found 'null', expected"),
        (Answers.json({"scores": [SCORE]}), "missing required field `protocol`"),
        (Answers.json({"protocol": "lenient", "scores": [SCORE]}), "found the protocol 'lenient', expected 'boxed'"),
        (Answers.json({"protocol": "boxed", "scores": []}), "found 0 scores, expected 1"),
        (Answers.json({"protocol": "boxed", "scores": [SCORE] * 2}), "found 2 scores, expected 1"),
        (Answers.json({"protocol": "boxed", "scores": None}), "Expected `array`"),
        (answering(reward=None), "Expected `float`"),
        (answering(reward="1"), "Expected `float`"),
        (answering(reward=1e300), "found reward 1e[+]300, expected 1"),
        (
            Answers.http(b'{"protocol": "boxed", "scores": [{"reward": NaN, "answer": "C", "reason": "correct"}]}'),
            "NaN",
        ),
        (answering(reward=0.5), "found reward 0.5, expected 1"),
        (answering(reward=-1.0), "found reward -1.0, expected 1"),
        (answering(answer="E"), "found answer 'E', expected one of A, B, C, D or null"),
        (answering(answer="AB"), "found answer 'AB', expected one of"),
        (answering(answer=""), "found answer '', expected one of"),
        (answering(answer=3), r"Expected `str \| null`"),
        (answering(answer="A"), "found reason 'correct' for answer 'A' and key 'C', expected 'wrong'"),
        (answering(answer=None), "found reason 'correct' for answer None"),
        (answering(reason="lucky"), "found reason 'lucky'"),
        (answering(parts={"own": 1.0}), "has the functions own, this run none but the rule"),
        (Answers.http(b"<html>Gone</html>", "404 Not Found", "Content-Type: text/html\r\n"), "404 .*Gone.*text/html"),
        (Answers.json({}, "301 Moved Permanently", "Location: http://127.0.0.1:9/\r\n"), "refused the request: 301"),
    ],
)
def test_an_answer_that_is_no_scores_of_this_run_is_one_line_at_once(answer, message):
    server = Answers(answer, Answers.json(GOOD))
    with RewardClient(server.url, RewardConfig()) as client:
        with pytest.raises(RewardError, match=message) as refused:
            client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
        assert (client.retried, client.failures) == (0, 1)
    assert str(refused.value).startswith(f"{server.url}/score: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answers.json({"status": "ok", "protocol": "lenient"}), "found the protocol 'lenient', expected 'boxed'"),
        (Answers.json({"status": "ok"}), "missing required field `protocol`"),
        (Answers.http(b"<html>Welcome</html>"), "found '<html>Welcome</html>', expected .*boxed"),
        (Answers.http(b"", "404 Not Found"), "refused the request: 404"),
    ],
)
def test_what_is_no_reward_server_of_this_run_is_found_by_its_health(answer, message):
    other = Answers(answer, until=b"\r\n\r\n")
    with RewardClient(other.url, RewardConfig()) as client, pytest.raises(RewardError, match=message) as refused:
        client.check_server()
    assert str(refused.value).startswith(f"{other.url}/health: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": 1.5, "parts": {"correct": 1.0, "own": 1.0}}, "found reward 1.5, expected 3 by .*reward.weights"),
        ({"reward": 2.0, "parts": {"correct": 0.0, "own": 1.0}}, "found correct 0.0, expected 1.0"),
        ({"reward": 2e300, "parts": {"correct": 1.0, "own": 1e300}}, "expected numbers within ±1e[+]09"),
        ({"reward": 1.0, "parts": {"correct": 1.0, "own/a": 0.0}}, "found reward 1.0, expected nan"),
    ],
)
def test_a_sum_by_other_weights_or_beyond_all_bounds_is_an_error(changed, message):
    server = Answers(answering(**changed))
    with RewardClient(server.url, RewardConfig(functions=["correct", "here.py:own"], weights=[1.0, 2.0])) as client:
        with pytest.raises(RewardError, match=message):
            client.score([RewardItem(r"\boxed{C}", "C", OPTIONS, question=QUESTION)])


def test_a_server_that_never_answers_runs_into_the_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cfg = RewardConfig(retries=1, request_timeout_s=0.2)
        with RewardClient(f"http://127.0.0.1:{silent.getsockname()[1]}", cfg) as client:
            with pytest.raises(RewardError, match="Timeout"):
                client.score([RewardItem(r"\boxed{C}", "C", OPTIONS)])
            assert client.failures == 1
