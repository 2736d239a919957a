"""The pool of connections to the rollout server."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from urllib3 import HTTPResponse

from alphamed_nemo.launch.components import free_port
from alphamed_nemo.rollout.connection import Connection, RolloutLost

THREADS = 100  # more than any limit that a pool of connections has by default


class Slow(msgspec.Struct):
    """An answer whose type takes a while to learn, in which another thread asks for it, too."""

    number: while_another_asks()  # noqa: F821 (evaluated by name, as msgspec learns it)


def while_another_asks() -> type[int]:
    other.start()
    assert answered.acquire(timeout=30)  # it has the bytes
    other.join(0.2)  # and would decode them now
    return int


def ask() -> int:
    connection = Connection("http://127.0.0.1:9", "key", 1.0, 0)

    def answer(*_: object, **__: object) -> HTTPResponse:
        if threading.current_thread() is other:
            answered.release()
        return HTTPResponse(b'{"number": 7}', status=200)

    connection._request = answer
    return connection.call("GET", "/x", "an answer", answer=Slow).number


found: list[int] = []
answered = threading.Semaphore(0)
other = threading.Thread(target=lambda: found.append(ask()))


def test_two_threads_may_ask_for_a_type_that_none_has_asked_for_before():
    """msgspec takes a type for known as soon as it begins to learn it, and then reads what is not there yet."""
    found.append(ask())
    other.join()
    assert found == [7, 7]


class Counting(ThreadingHTTPServer):
    """Answers POSTs once as many are waiting as there are threads; counts the connections."""

    request_queue_size, daemon_threads = 512, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.connections = 0
        self.together = threading.Barrier(THREADS)
        self.lock = threading.Lock()

    def process_request(self, request, client_address) -> None:
        with self.lock:
            self.connections += 1
        super().process_request(request, client_address)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.together.wait(30)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args) -> None:
        pass


def test_no_connection_is_closed_while_many_threads_share_the_pool():
    """An idle one that is closed may be the one that another thread was just given (seen as EBADF after 300 s)."""
    server = Counting()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connection = Connection(f"http://127.0.0.1:{server.server_port}", "key", 30.0, 0)

    def several(number: int) -> None:
        for _ in range(3):
            connection.call("POST", "/x", "an answer", json={"number": number})

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(several, range(THREADS)))
    connection.close()
    server.shutdown()
    assert server.connections == THREADS


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alphamed_nemo.rollout.connection.pause_s", lambda *_: 0.001)


def test_a_server_that_is_gone_is_one_line_however_many_requests_try_again(quick, caplog) -> None:
    port, retries, requests = free_port(), 3, 20
    connection = Connection(f"http://127.0.0.1:{port}", "key", 30.0, retries)

    def ask(_: int) -> str:
        with pytest.raises(RolloutLost, match="4 attempts") as lost:
            connection.call("POST", "/x", "an answer", json={})
        return str(lost.value)

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(requests) as pool:
        assert len(list(pool.map(ask, range(requests)))) == requests
    said = [record.getMessage() for record in caplog.records if record.name.startswith("alphamed_nemo")]
    assert len(said) == 1 and f":{port}: NewConnectionError" in said[0] and "retrying, up to 3 times" in said[0]
    connection.close()


def test_a_loss_is_one_line_also_where_another_request_fails_while_it_is_said(caplog, monkeypatch) -> None:
    connection = Connection("http://127.0.0.1:9", "", 30.0, 0)
    said = caplog.handler.emit

    def meanwhile(record: logging.LogRecord) -> None:
        said(record)
        if len(caplog.records) == 1:
            connection.lose("the second")

    monkeypatch.setattr(caplog.handler, "emit", meanwhile)
    with caplog.at_level(logging.WARNING):
        connection.lose("the first")
    assert [record.getMessage() for record in caplog.records] == [
        "rollout server http://127.0.0.1:9 is lost: the first"
    ]
    connection.close()


class Sometimes(Answer):
    """503 while `down`."""

    down = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503 if type(self).down else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        type(self).down = False


def test_trouble_and_its_end_are_each_one_line(quick, caplog) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sometimes)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connection = Connection(f"http://127.0.0.1:{server.server_port}", "key", 30.0, 3)
    with caplog.at_level(logging.INFO, logger="alphamed_nemo"):
        for _ in range(2):  # a second time of trouble is said again
            Sometimes.down = True
            for _ in range(3):
                assert connection.call("POST", "/x", "an answer", json={}) == {}
    said = [record.getMessage().partition(f":{server.server_port}")[2] for record in caplog.records]
    assert [line.split(";")[0] for line in said if line] == [": HTTP 503: {}", " answers again"] * 2
    connection.close()
    server.shutdown()
