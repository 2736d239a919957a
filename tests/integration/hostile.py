"""Requests that a reward server must survive, as raw bytes on a socket, while good ones are answered beside them.

    python -m tests.integration.hostile

besieges a server of its own and prints what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import httpx

from alphamed_nemo.config import RewardConfig
from alphamed_nemo.launch.components import free_port
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.rule import score_all
from alphamed_nemo.rewards.score import RewardItem

KEY = "the-key-of-the-server"
CUT_OFF = ("random bytes", "chunk too long", "cut off", "announced too long")
HOSTILE_THREADS, GOOD_THREADS = 8, 32
SETTLED_WITHIN_S = 30.0  # after the last request: connections that are closed
BIG = b"x" * 8_000_000
HEALTH_WATCHER = """
import http.client, select, sys, time
slowest = 0.0
while not select.select([sys.stdin], [], [], 0.05)[0]:
    asked = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    slowest = max(slowest, time.monotonic() - asked)
    connection.close()
print(slowest)
"""
ITEM = {"response": "\\boxed{C}", "answer": "C", "letters": "ABCD"}


@dataclass
class Server:
    """A running reward server."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def start_server(log: Path, *arguments: str, api_key: str = "") -> Server:
    port = free_port()
    argv = [sys.executable, "-m", "alphamed_nemo.rewards.server", "--port", str(port), *arguments]
    with log.open("w") as output:
        environment = os.environ | {"ALPHAMED_REWARD_API_KEY": api_key}
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=environment)
    deadline = time.monotonic() + 60
    with httpx.Client(timeout=2) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    return Server(process, port, log)
            except httpx.TransportError:
                time.sleep(0.05)
    raise RuntimeError(f"the reward server did not come up:\n{log.read_text()}")


def stop_server(server: Server) -> int:
    """Exit status after SIGTERM."""
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        return server.process.wait()


def http(body: bytes, head: str = "", method: str = "POST", path: str = "/score") -> bytes:
    """A request with the right key, unless `head` has another."""
    length = "" if "content-length" in head.lower() or "chunked" in head else f"Content-Length: {len(body)}\r\n"
    if "Authorization" not in head:
        head = f"Authorization: Bearer {KEY}\r\n{head}"
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}{length}\r\n".encode("latin-1") + body


def items(*rows: dict) -> bytes:
    return json.dumps({"items": list(rows)}).encode()


def hostile_requests(seed: int):
    """Endless (kind, bytes) pairs; every kind breaks something else."""
    rng = random.Random(seed)
    nothing = http(BIG)
    words, many = http(items(ITEM | {"response": BIG.decode()})), http(items(*[ITEM] * 5000))
    chunk = http(b"7a1200\r\n" + BIG + b"\r\n0\r\n\r\n", head="Transfer-Encoding: chunked\r\n")
    makers = {
        "random bytes": lambda: rng.randbytes(rng.randrange(1, 5000)),
        "random body": lambda: http(rng.randbytes(rng.randrange(0, 5000))),
        "truncated JSON": lambda: http(items(ITEM)[: rng.randrange(1, 60)]),
        "mutated JSON": lambda: http(_mutated(items(ITEM, ITEM), rng)),
        "deep lists": lambda: http(b"[" * rng.randrange(10, 200_000)),
        "deep objects": lambda: http(b'{"items":' * rng.randrange(10, 50_000)),
        "deep inside an item": lambda: http(b'{"items":[{"response":' + b"[" * 100_000),
        "million numbers": lambda: http(b'{"items":[' + b"1," * 500_000 + b"1]}"),
        "too many items": lambda: many,
        "too many empty items": lambda: http(b'{"items":[' + b"{}," * 100_000 + b"{}]}"),
        "long response": lambda: http(items(ITEM | {"response": "x" * 300_000})),
        "big body": lambda: words,
        "big body of nothing": lambda: nothing,
        "big chunk": lambda: chunk,
        "wrong key": lambda: http(items(ITEM), head=f"Authorization: Bearer {rng.randrange(10**9)}\r\n"),
        "no key": lambda: http(items(ITEM), head="Authorization: \r\n"),
        "key of another scheme": lambda: http(items(ITEM), head=f"Authorization: Basic {KEY}\r\n"),
        "wrong key, big body": lambda: http(b"x" * 2_000_000, head="Authorization: Bearer x\r\n"),
        "null bytes": lambda: http(items(ITEM | {"response": "\0" * 1000 + "\\boxed{C}"})),
        "lone surrogates": lambda: http(b'{"items":[{"response":"\\ud800","answer":"A","letters":"AB"}]}'),
        "braces": lambda: http(items(ITEM | {"response": "\\boxed{" * 20_000})),
        "answer is": lambda: http(items(ITEM | {"response": "the answer is (" * 10_000})),
        "wrong types": lambda: http(items({k: rng.choice([None, 1, [], {}, 1e999]) for k in ITEM})),
        "wrong answer": lambda: http(items(ITEM | {"answer": rng.choice(["", "Z", "AB", "a", "\0", "é"])})),
        "wrong letters": lambda: http(items(ITEM | {"letters": rng.choice(["", "A", "BCD", "AAAA", "x" * 1000])})),
        "unknown field": lambda: http(items(ITEM | {"reward": 1.0})),
        "unknown top field": lambda: http(json.dumps({"items": [ITEM], "protocol": "easy"}).encode()),
        "huge numbers": lambda: http(b'{"items":' + b"9" * 100_000 + b"}"),
        "announced too long": lambda: http(b"x", head="Content-Length: 99999999999\r\n"),
        "negative length": lambda: http(b"x", head="Content-Length: -1\r\n"),
        "two lengths": lambda: http(b"xx", head="Content-Length: 1\r\nContent-Length: 2\r\n"),
        "bad chunks": lambda: http(b"zz\r\n\r\n", head="Transfer-Encoding: chunked\r\n"),
        "chunk too long": lambda: http(b"ffffffffff\r\nabc", head="Transfer-Encoding: chunked\r\n"),
        "huge header": lambda: http(b"", head="X: " + "y" * 200_000 + "\r\n"),
        "many headers": lambda: http(b"", head="".join(f"X-{i}: y\r\n" for i in range(5000))),
        "long path": lambda: http(b"", path="/" + "a" * 100_000),
        "wrong method": lambda: http(b"", method=rng.choice(["GET", "PUT", "DELETE", "BREW", "\x00"])),
        "wrong path": lambda: http(items(ITEM), path=rng.choice(["/", "/../etc/passwd", "/score/", "/docs", "/%00"])),
        "upgrade": lambda: http(b"", head="Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        "cut off": lambda: http(items(ITEM), head="Content-Length: 5000\r\n"),
        "gzip": lambda: http(b"\x1f\x8b" + rng.randbytes(100), head="Content-Encoding: gzip\r\n"),
        "byte order mark": lambda: http(b"\xef\xbb\xbf" + items(ITEM)),
        "utf-16": lambda: http(json.dumps({"items": [ITEM]}).encode("utf-16")),
    }
    kinds = list(makers)
    while True:
        kind = rng.choice(kinds)
        yield kind, makers[kind]()


def _mutated(body: bytes, rng: random.Random) -> bytes:
    mutable = bytearray(body)
    for _ in range(rng.randrange(1, 6)):
        mutable[rng.randrange(len(mutable))] = rng.randrange(256)
    return bytes(mutable)


def send(port: int, kind: str, request: bytes) -> bytes:
    """First bytes of the answer; empty where the server closed without one. What is cut off ends with the sending."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(request)
            if kind in CUT_OFF:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(64)
        except ConnectionError:
            return b""


def status_of(answer: bytes) -> str:
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"


@dataclass
class Siege:
    """What came of a siege.

    Attributes:
        statuses: answers to the hostile requests by status; "closed": none.
        wrong: good clients that did not get their scores.
        retried: attempts of good clients that were refused or lost, and repeated.
        slowest_health_s: the longest that /health took.
        seconds: all of it.
        rss_mb, files: of the server: resident memory and open file descriptors, before and after.
    """

    statuses: Counter[str]
    wrong: int
    retried: int
    slowest_health_s: float
    seconds: float
    rss_mb: tuple[float, float]
    files: tuple[int, int]


def besiege(server: Server, hostile: int, good: int, idle: int, seed: int = 1) -> Siege:
    """Sends hostile requests and good ones at once, while idle and trickling connections stand.

    Raises:
        AssertionError: the server died, answered with its own failure, or /health did not answer 200.
    """
    server_files = server.files()
    rss_mb, started = server.rss_mb(), time.monotonic()
    stream, lock = hostile_requests(seed), threading.Lock()

    def attack(_: int) -> str:
        with lock:
            kind, request = next(stream)
        status = status_of(send(server.port, kind, request))
        assert status != "500", f"{kind}: {request[:300]!r}"
        return status

    def ask(number: int) -> tuple[bool, int]:
        letter = "ABCD"[number % 4]
        batch = [RewardItem(rf"\boxed{{{given}}}", letter) for given in "ABCD"]
        with RewardClient(server.url, RewardConfig(api_key=KEY)) as client:
            return client.score(batch) == score_all(batch), client.retried

    with ExitStack() as standing:
        for beginning in islice(idle_beginnings(), idle):
            connection = standing.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(beginning)
        argv = [sys.executable, "-IS", "-c", HEALTH_WATCHER, str(server.port)]
        watcher = standing.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        with ThreadPoolExecutor(HOSTILE_THREADS) as enemies, ThreadPoolExecutor(GOOD_THREADS) as friends:
            attacks, asked = enemies.map(attack, range(hostile)), friends.map(ask, range(good))
            statuses, answers = Counter(attacks), list(asked)
        slowest_health, _ = watcher.communicate()
        assert watcher.returncode == 0, "/health did not answer 200"
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while server.files() > server_files and time.monotonic() < deadline:
        os.sched_yield()
    assert server.process.poll() is None, server.log.read_text()[-2000:]
    return Siege(
        statuses,
        wrong=sum(not right for right, _ in answers),
        retried=sum(retried for _, retried in answers),
        slowest_health_s=float(slowest_health),
        seconds=time.monotonic() - started,
        rss_mb=(rss_mb, server.rss_mb()),
        files=(server_files, server.files()),
    )


def idle_beginnings() -> Iterator[bytes]:
    """What idle connections have sent: nothing, a part of a head, a part of a body."""
    while True:
        yield b""
        yield b"POST /score HTTP/1.1\r\nHost: x\r\nX-Slow: "
        yield http(b"{", head="Content-Length: 1000\r\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--good", type=int, default=1_000)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--log", type=Path, default=Path("hostile_server.log"))
    arguments = parser.parse_args()
    server = start_server(arguments.log, api_key=KEY)
    try:
        print("warm-up", besiege(server, min(500, arguments.hostile), 50, 10, seed=0))
        print(besiege(server, arguments.hostile, arguments.good, arguments.idle))
    finally:
        print("exit status", stop_server(server))


if __name__ == "__main__":
    main()
