"""Refit by broadcast: rank 0 of the trainer sends each bucket once, and the workers of all servers receive it.

Rank 0 and all workers are one group, in which the workers' ranks follow in the order of the servers. It is formed for
the first refit, and again when the servers are not those of the last one, or one was started anew: a group in which one
is gone would wait for it. What moves the bytes is a transport: NCCL on GPUs (nccl.py), gloo on CPU hosts (gloo.py), in
the same choreography.

The engines load a weight into the model as it arrives, so they cannot fall back to the old weights once one has: after
an update that did not end a server stays paused until it is refitted or restarted. An update is announced first, and an
engine (inside_vllm/whole_updates.py) refuses what is not a whole update before anything is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import accumulate
from threading import Lock
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from alphamed_nemo.rollout.carriers.buckets import Bucket, buckets
from alphamed_nemo.rollout.carriers.refit_group import GROUP_ENDED, Group, in_background
from alphamed_nemo.rollout.carriers.sender import Weights
from alphamed_nemo.rollout.carriers.updates import announcement, end_update, update_one
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost
from alphamed_nemo.rollout.receivers import Receivers
from alphamed_nemo.rollout.update_manifest import Manifest

# Seconds for a group to form and for a bucket to reach all workers: many times what slow links need. Whoever waits
# longer, waits for one that is gone.
LIMIT_S = 120.0


class Transport(Protocol):
    """What moves the bytes.

    Attributes:
        bucket_bytes: of the buckets that it moves well.
        init_info: what the workers are told besides how to meet.
    """

    bucket_bytes: int
    init_info: dict[str, Any]

    def join(self, listener: socket.socket, ranks: int, limit_s: float) -> Group:
        """The group, as rank 0 of `ranks`, to which the workers come by the address of `listener`."""
        ...


@dataclass
class _Collective:
    """What all members do together: our own part, and the calls in which the workers do theirs.

    Attributes:
        what: for error messages.
        asked: the servers.
        calls: by server why its workers' group ended, empty where they did their part.
    """

    what: str
    asked: list[Connection]
    own: Future[Any]
    calls: Future[dict[Connection, str]]


class BroadcastSender:
    """Sends an update to all servers at once.

    Args:
        manifest: what a complete update carries.
        transport: what moves the bytes.
        limit_s: of forming the group, and of one bucket on its way.
    """

    def __init__(self, manifest: Manifest, transport: Transport, limit_s: float = LIMIT_S) -> None:
        self.manifest, self.transport, self.limit_s = manifest, transport, limit_s
        self.partial = False
        self.receivers = Receivers([])
        self.group: Group | None = None
        self.members: list[tuple[Connection, str | None]] = []  # of the group: each server, and which start of it
        self.ending = Lock()

    def open(self, receivers: Receivers) -> None:
        """Forms the group, unless it stands.

        Raises:
            RolloutLost: a server was lost over it.
        """
        self.receivers = receivers
        if self.members != _starts(receivers.present):
            self._end_group()
        if self.group is None:
            self._form_group()

    def send(self, weights: Weights) -> int:
        """See `Sender.send`. Raises RolloutLost where one server is lost: the group ends with it, for all."""
        announced, total = announcement(self.manifest), 0
        under_way = self._start("the announcement", lambda: None, lambda connection: update_one(connection, announced))
        try:
            for bucket in buckets(weights, self.transport.bucket_bytes):  # gathered while the last one is loaded
                self._settle(under_way)
                self.partial = True
                under_way = self._send_off(bucket)
                total += sum(bucket.sizes)
            self._settle(under_way)
        except BaseException:
            with suppress(RolloutError):
                self._settle(under_way)  # nothing else is asked of a server while it loads
            raise
        return total

    def abort(self, connection: Connection) -> None:
        self._end_group()  # it may hold half a broadcast
        end_update(connection)

    def close(self) -> None:
        self._end_group()

    def _form_group(self) -> None:
        """The workers wait inside their calls for rank 0 and for each other, so all of them are made at once."""
        workers = self.receivers.each(_number_of_workers)
        ranks = list(accumulate(workers.values(), initial=1))
        offsets = dict(zip(workers, ranks, strict=False))
        with socket.create_server((address_towards([connection.url for connection in workers]), 0)) as listener:
            address, port = listener.getsockname()[:2]
            met = {"master_address": address, "master_port": port, "world_size": ranks[-1], "limit_s": self.limit_s}
            met |= self.transport.init_info

            def join(connection: Connection) -> None:
                info = {"init_info": met | {"rank_offset": offsets[connection]}}
                waiting_for = f"{workers[connection]} workers to join a group at {address}:{port}"
                connection.call("POST", "/init_weight_transfer_engine", waiting_for, retry=False, json=info)

            own = in_background(lambda: self.transport.join(listener, ranks[-1], self.limit_s))
            try:
                self._settle(self._start("a group of rank 0 and all workers", own.result, join))
            except BaseException:
                own.add_done_callback(_destroy)  # it may still form
                raise
        self.group, self.members = own.result(), _starts(list(workers))

    def _send_off(self, bucket: Bucket) -> _Collective:
        group, packed, info = self.group, bucket.packed(), bucket.info()
        assert group is not None, "open() comes first"
        return self._start(
            "the broadcast of a bucket of weights",
            lambda: group.broadcast(packed),
            lambda connection: update_one(connection, info),
        )

    def _start(self, what: str, own: Callable[[], Any], each: Callable[[Connection], None]) -> _Collective:
        def part(connection: Connection) -> str:
            try:
                each(connection)
            except RolloutError as error:
                self._end_group()  # no one waits for this one any longer
                if GROUP_ENDED not in str(error):
                    raise
                return str(error)
            return ""

        asked = self.receivers.present  # before the calls: one may be lost at once
        calls = in_background(lambda: self.receivers.each(part))
        return _Collective(what, asked, in_background(own), calls)

    def _settle(self, collective: _Collective) -> None:
        """Waits for all members, for each no longer than its limit.

        Raises:
            RolloutLost: one is gone, or not done in time.
            RolloutError: a server refused.
        """
        own, calls = collective.own, collective.calls
        wait([own, calls], self.limit_s, FIRST_COMPLETED)
        if calls.done() and not calls.exception() and not any(calls.result().values()):
            wait([own], self.limit_s)
        if not own.done() or own.exception() is not None:
            self._end_group()
        answers = calls.result()
        problems = [connection.lost for connection in collective.asked] + list(answers.values())
        if not own.done():
            problems.append(f"it was not done within {self.limit_s:g} s")
        elif own.exception() is not None:
            problems.append(str(own.exception()))
        if any(problems):
            raise RolloutLost(f"{collective.what}: {next(filter(None, problems))}")

    def _end_group(self) -> None:
        with self.ending:
            group, self.group = self.group, None
        if group is not None:
            group.destroy()


class _WorldSize(msgspec.Struct):
    world_size: int


def _number_of_workers(connection: Connection) -> int:
    return connection.call("GET", "/get_world_size", "the server's number of workers", answer=_WorldSize).world_size


def _starts(connections: Sequence[Connection]) -> list[tuple[Connection, str | None]]:
    return [(connection, connection.instance) for connection in connections]


def _destroy(joined: Future[Group]) -> None:
    """A group that forms after it was given up."""
    if joined.exception() is None:
        joined.result().destroy()


def address_towards(urls: Sequence[str]) -> str:
    """This host's own address on the route to the servers, where their workers can reach back; that of loopback only
    where all of them are there. No packet is sent."""
    found = []
    for parts in map(urlsplit, urls):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname, parts.port or 80))
            found.append(probe.getsockname()[0])
    return min(found, key=lambda address: ip_address(address).is_loopback)
