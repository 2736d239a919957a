"""The pool of connections to the rollout server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from alphamed_nemo.rollout.connection import Connection

THREADS = 100  # more than any limit that a pool of connections has by default


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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = Connection(f"http://127.0.0.1:{server.server_port}", "key", 30.0, 0)

    def several(number: int) -> None:
        for _ in range(3):
            connection.call("POST", "/x", "an answer", json={"number": number})

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(several, range(THREADS)))
    connection.close()
    server.shutdown()
    assert server.connections == THREADS
