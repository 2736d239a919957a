"""Rollout servers of one process, for refits by broadcast: their workers take part in a group, each in a thread.

Two kinds of groups. Gloo's own, over TCP, and one that behaves as NCCL does: whoever waits for a member that is gone
waits until its own end is destroyed, and is told of no error by then.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

import msgspec
import torch

from alphamed_nemo.rollout.carriers.gloo import GlooGroup, GlooTransport
from alphamed_nemo.rollout.carriers.refit_group import GROUP_ENDED, Group, limited
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost

LONGER_THAN_ANY_TEST_S = 60.0


class Silent:
    """Groups whose members say nothing when they go."""

    bucket_bytes = 1 << 30
    init_info = {"packed": True}

    def __init__(self) -> None:
        self.changed = Condition()
        self.sent: dict[int, list[torch.Tensor]] = {}  # by port of the group: what rank 0 sent, in order
        self.taken: dict[int, list[int]] = {}  # how many ranks have taken each
        self.present: dict[int, int] = {}

    def join(self, listener: socket.socket, ranks: int, limit_s: float) -> SilentGroup:
        return self.enter(listener.getsockname()[1], 0, ranks, limit_s)

    def enter(self, port: int, rank: int, ranks: int, limit_s: float) -> SilentGroup:
        with self.changed:
            self.sent.setdefault(port, [])
            self.taken.setdefault(port, [])
            self.present[port] = self.present.get(port, 0) + 1
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.present[port] == ranks, limit_s):
                raise RuntimeError(f"rank {rank}: only {self.present[port]} of {ranks} came")
        return SilentGroup(self, port, rank, ranks)


@dataclass
class SilentGroup:
    network: Silent
    port: int
    rank: int
    ranks: int
    number: int = 0
    destroyed: bool = False

    def broadcast(self, bucket: torch.Tensor) -> None:
        sent, taken, changed = self.network.sent[self.port], self.network.taken[self.port], self.network.changed
        number, self.number = self.number, self.number + 1
        with changed:
            if self.rank == 0:
                sent.append(bucket)
                taken.append(1)
                changed.notify_all()
                changed.wait_for(lambda: self.destroyed or taken[number] == self.ranks, LONGER_THAN_ANY_TEST_S)
            else:
                changed.wait_for(lambda: self.destroyed or len(sent) > number, LONGER_THAN_ANY_TEST_S)
                if not self.destroyed:
                    bucket.copy_(sent[number])
                    taken[number] += 1
                    changed.notify_all()

    def destroy(self) -> None:
        with self.network.changed:
            self.destroyed = True
            self.network.changed.notify_all()


class Gloo(GlooTransport):
    """Real groups over TCP."""

    def enter(self, port: int, rank: int, ranks: int, limit_s: float) -> GlooGroup:
        return GlooGroup("127.0.0.1", port, rank, ranks, limit_s, "127.0.0.1")


@dataclass
class Worker:
    group: Any = None
    limit_s: float = 0.0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


class Server(Connection):
    """One server, with what its engine would make of the calls.

    Attributes:
        fault: what happens in the next call to this path: gone (the process dies before it takes part), silent (it
            takes no part and gives no answer until it is killed), refused.
    """

    def __init__(self, number: int, workers: int, enter: Callable[[int, int, int, float], Group]) -> None:
        super().__init__(f"http://127.0.0.1:{9000 + number}", "", LONGER_THAN_ANY_TEST_S, 0)
        self.enter = enter
        self.workers = [Worker() for _ in range(workers)]
        self.instance = "first start"
        self.calls: list[str] = []
        self.fault: dict[str, str] = {}
        self.gone = False
        self.killed = Condition()

    def restart(self) -> None:
        """As the launcher does; nothing is left of its groups."""
        self.workers = [Worker() for _ in self.workers]
        self.instance, self.gone, self.lost = f"after {self.instance}", False, ""

    def kill(self) -> None:
        with self.killed:
            self.gone = True
            for worker in self.workers:
                if worker.group is not None:
                    worker.group.destroy()
            self.killed.notify_all()

    def call(
        self, method: str, path: str, waiting_for: str, *, retry: bool = True, answer: Any = dict, **request: Any
    ) -> Any:
        self.calls.append(path)
        fault = self.fault.pop(path, "")
        if fault == "gone":
            self.kill()
        if fault == "silent":
            with self.killed:
                self.killed.wait_for(lambda: self.gone, LONGER_THAN_ANY_TEST_S)
        if self.gone:
            raise RolloutLost(f"{self.url}: connection refused")
        if fault == "refused":
            raise RolloutError(f"{self.url}: refused")
        found = self._answer(path, request.get("json") or {})
        if self.gone:
            raise RolloutLost(f"{self.url}: connection reset")
        return msgspec.convert(found, answer)

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/get_world_size":
            return {"world_size": len(self.workers)}
        if path == "/init_weight_transfer_engine":
            self._on_each_worker(self._join, body["init_info"])
        elif path == "/update_weights":
            info = body["update_info"]
            if not info:
                raise RolloutError("the update was ended")
            if info["names"]:
                self._on_each_worker(self._receive, info)
            elif any(worker.group is None for worker in self.workers):
                raise RolloutError(f"{GROUP_ENDED}: there is none")
        return {}

    def _on_each_worker(self, act: Callable[[int, dict[str, Any]], None], info: dict[str, Any]) -> None:
        with ThreadPoolExecutor(len(self.workers)) as pool:
            try:
                list(pool.map(act, range(len(self.workers)), [info] * len(self.workers)))
            except RuntimeError as error:  # what vLLM's engine raises comes back as the text of an HTTP 500
                if self.gone:
                    raise RolloutLost(f"{self.url}: connection reset") from None
                raise RolloutError(f"HTTP 500: {GROUP_ENDED}: {error}") from None

    def _join(self, number: int, info: dict[str, Any]) -> None:
        worker, rank = self.workers[number], info["rank_offset"] + number
        if worker.group is not None:
            worker.group.destroy()
        worker.group = self.enter(info["master_port"], rank, info["world_size"], info["limit_s"])
        worker.limit_s = info["limit_s"]

    def _receive(self, number: int, info: dict[str, Any]) -> None:
        worker = self.workers[number]
        dtypes = [getattr(torch, name) for name in info["dtype_names"]]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(info["shapes"], dtypes, strict=True)]
        bucket = torch.zeros(sum(sizes), dtype=torch.uint8)
        with limited(worker.group.destroy, worker.limit_s):
            worker.group.broadcast(bucket)
        for name, shape, dtype, piece in zip(info["names"], info["shapes"], dtypes, bucket.split(sizes), strict=True):
            worker.weights[name] = piece.clone().view(dtype).view(shape)
