"""Stand-ins for vLLM servers: HTTP, and samples that follow from prompt and seed alone, as a real server's do.

They take the calls of a refit, too, and can be lost at a chosen call and started again, as a launcher would.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.rollout.inside_vllm.instance import INSTANCE

END = 2  # end-of-sequence token
LOGPROB = -1.5  # of any given token, whatever the version


@dataclass
class StandIn:
    """One server, through all its starts.

    Attributes:
        texts: what a response says, by its first token; any other says nothing.
        version: of the weights that it serves, as /weight_info says it.
        start: how often it was started.
        lost: nobody answers.
        lose_at: path → number of the call to it, counted from 1, at which it is lost instead of answering.
        back_at: number of calls to /health, all starts counted, at which it has been started again.
        refuse: paths that are answered with 400.
        logprob: of any given token.
        calls: paths that were called, in order, through all starts; /health and /weight_info are not among them.
        sampled: seeds of the requests that were answered.
        updates: what was said of each update.
        counted: calls of each path, answered or not.
        journal: (URL, path) of the calls of all servers, in order.
    """

    texts: dict[int, str] = field(default_factory=dict)
    version: str = "default"
    start: int = 1
    lost: bool = False
    lose_at: dict[str, int] = field(default_factory=dict)
    back_at: int = 0
    refuse: set[str] = field(default_factory=set)
    logprob: float = LOGPROB
    calls: list[str] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    updates: list[dict] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    journal: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def back(self) -> None:
        """It was started again, on the weights of its folder."""
        self.lost, self.version, self.start, self.lose_at = False, "default", self.start + 1, {}

    def answer(self, path: str, body: dict) -> tuple[int, dict] | None:
        """Status and content; None: no answer, the connection ends."""
        with self.lock:
            self.counted[path] += 1
            if self.lose_at.get(path) == self.counted[path]:
                self.lost = True
            if path == "/health" and self.counted[path] == self.back_at:
                self.back()
            if self.lost:
                return None
            if path not in ("/health", "/weight_info"):
                self.calls.append(path)
                self.journal.append((self.url, path))
            if path in self.refuse:
                return 400, {"error": {"message": f"{path} is refused"}}
            if path == "/weight_info":
                return 200, {"weight_version": self.version}
            if path == "/finish_weight_update":
                self.version = body["weight_version"]
            if path == "/update_weights":
                self.updates.append(body["update_info"])
            if path == "/v1/completions" and "prompt_logprobs" not in body:
                self.sampled.append(body.get("seed"))
        return 200, self._completion(body) if path == "/v1/completions" else {}

    def _completion(self, body: dict) -> dict:
        choices = []
        for prompt in body["prompt"]:
            for sample in range(body.get("n", 1)):
                draw = random.Random(f"{prompt}/{body.get('seed', 0) + sample}/{self.version}")
                ids = [draw.randrange(3, 50) for _ in range(draw.randint(1, body["max_tokens"]))]
                ids[-1] = END
                given = [None, *({str(token): {"logprob": self.logprob}} for token in prompt[1:])]
                choices.append(
                    {
                        "index": len(choices),
                        "finish_reason": "stop",
                        "prompt_token_ids": prompt,
                        "token_ids": ids,
                        "logprobs": {"token_logprobs": [-draw.random() for _ in ids]},
                        "text": self.texts.get(ids[0] % 8, ""),
                        "prompt_logprobs": given if "prompt_logprobs" in body else None,
                    }
                )
        return {"choices": choices}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # header and content in one packet: the second of two waits for an acknowledgement of the first, 40 ms

    def do_GET(self) -> None:  # noqa: N802, http.server's own name
        self._answer()

    def do_POST(self) -> None:  # noqa: N802
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        stand_in: StandIn = self.server.stand_in
        answer = stand_in.answer(urlsplit(self.path).path, json.loads(sent or b"{}"))
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("content-length", str(len(content)))
        self.send_header(INSTANCE, f"start {stand_in.start}")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def stand_ins(count: int, texts: dict[int, str] | None = None) -> Iterator[list[StandIn]]:
    """So many servers; they share a journal of all calls."""
    journal: list[tuple[str, str]] = []
    servers, found = [], []
    for _ in range(count):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.stand_in = StandIn(texts or {}, journal=journal, url=f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        found.append(server.stand_in)
    try:
        yield found
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def settings(servers: Sequence[StandIn], **rollout: object) -> RolloutConfig:
    """Settings of a run on them; a lost connection is a loss at once."""
    urls = [server.url for server in servers]
    return RolloutConfig(
        **{"servers": len(urls), "urls": urls, "retries": 0, "request_timeout_s": 20.0, "transfer": "shm"} | rollout
    )
