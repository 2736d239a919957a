"""Samples from the policy through all rollout servers of a run, as if they were one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from math import ceil

from alphamed_nemo.config import RolloutConfig
from alphamed_nemo.open_files import raise_file_limit
from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutLost, weight_version
from alphamed_nemo.rollout.dealing import Dealer, all_lost
from alphamed_nemo.rollout.sampling import Request, Sampling, split
from alphamed_nemo.rollout.types import Rollout

__all__ = ["RolloutError", "RolloutLost", "RolloutPool"]

MAX_REQUESTS = 128  # in flight at once, for each engine
LOOK_EVERY_S = 5.0  # for lost servers that are back, while others sample


class RolloutPool:
    """The rollout servers of a run. Requests under way on a server that is lost go to the others.

    A seeded prompt has the same samples whichever server samples it, and whatever is sampled beside it, up to the
    rounding of the engine's kernels (docs/rollout.md).

    Args:
        connections: one for each server; shared with whoever refits them.
        cfg: `max_num_seqs` and `engines` set how many requests are in flight on each server.
        vocabulary: number of the model's token ids, beyond which none is accepted; None: unknown.

    Attributes:
        version: of the weights that are sampled from, set by whoever refits the servers; one with others is lost, and a
            lost one is back with its next refit. None: nobody refits them. Then it is the newest that is found, and a
            server that is back with it serves again.
    """

    def __init__(self, connections: Sequence[Connection], cfg: RolloutConfig, vocabulary: int | None = None) -> None:
        raise_file_limit()  # a server that no socket is left for would count as lost
        self.cfg = cfg
        self.clients = [RolloutClient(connection, cfg, vocabulary) for connection in connections]
        self.version: int | None = None
        self.dealer = Dealer(self.clients)
        self.looking = threading.Lock()
        self.looked = 0.0

    @property
    def serving(self) -> list[RolloutClient]:
        """The servers that are not lost."""
        return [client for client in self.clients if not client.connection.lost]

    def weight_version(self) -> int:
        """Version of the weights that are sampled from; 0 until the first refit.

        Raises:
            RolloutLost: no server has them.
        """
        return self._join()

    def generate(
        self,
        prompts: list[list[int]],
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int | Sequence[int] | None = None,
    ) -> list[list[Rollout]]:
        """`n` rollouts of each prompt, in the order of the prompts. See `stream` for the arguments and errors."""
        groups: list[list[Rollout]] = [[] for _ in prompts]
        for index, group in self.stream(prompts, n, temperature, top_p, max_new_tokens, seed):
            groups[index] = group
        return groups

    def stream(
        self,
        prompts: list[list[int]],
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int | Sequence[int] | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (index of the prompt, its `n` rollouts) as each group is finished.

        Args:
            prompts: token ids of each prompt; nothing is added to them.
            n, temperature, top_p, max_new_tokens, stop: see `Sampling`.
            seed: the same seed, prompts and weights give the same rollouts; a list has one for each prompt, which then
                do not depend on the prompts beside it; None: unseeded (a little faster).

        Raises:
            ValueError: an argument cannot work.
            RolloutError: a server answered something else than was asked, or its weights changed while it sampled.
            RolloutLost: all servers were lost.
        """
        sampling = Sampling(n, temperature, top_p, max_new_tokens, tuple(stop))
        requests = split(prompts, n, None if temperature == 0 else seed)
        version = self._join()
        sequences = n * max(len(request.prompts) for request in requests) if requests else 1
        in_flight = requests_in_flight(sequences, self.cfg) * len(self.clients)
        pool = ThreadPoolExecutor(max(1, min(len(requests), in_flight)), thread_name_prefix="rollout")
        try:
            pending = {pool.submit(self._sample, request, sampling, version): request for request in requests}
            for done in as_completed(pending):
                yield from enumerate(done.result(), start=pending[done].first)
        finally:  # an error or a caller that stops early does not leave requests behind in the queue
            pool.shutdown(wait=True, cancel_futures=True)
        self._check_unchanged(version, len(prompts))

    def warm_up(self) -> None:
        """One short sampled request to each server, so that what an engine does once is done before it is timed."""
        version = self._join()
        for client in self.serving:
            client.sample(Request(0, [[0]], None), Sampling(n=2, max_new_tokens=2), version)

    def close(self) -> None:
        for client in self.clients:
            client.connection.close()

    def _sample(self, request: Request, sampling: Sampling, version: int) -> list[list[Rollout]]:
        """By the first server that is not lost over it."""
        self._look_again(version)
        while True:
            with self.dealer.server(request, sampling) as client:
                asked = client.connection.instance
                try:
                    groups = client.sample(request, sampling, version)
                except RolloutLost as error:
                    client.connection.lose(str(error), of=asked)
                    continue
            self.dealer.learn(groups)
            return groups

    def _join(self) -> int:
        """The version to sample from, once each server is known to have it or is left out."""
        with ThreadPoolExecutor(len(self.clients)) as pool:
            found = list(pool.map(self._version_of, [client.connection for client in self.clients]))
        known = [version for version in found if version is not None]
        if not known:
            raise all_lost(self.clients)
        expected = max(known) if self.version is None else self.version
        for client, version in zip(self.clients, found, strict=True):
            if version is not None:
                _admit(client.connection, version, expected)
        if not self.serving:
            raise all_lost(self.clients)
        return expected

    def _look_again(self, expected: int) -> None:
        """Now and then, one thread looks whether lost servers are back."""
        if time.monotonic() - self.looked < LOOK_EVERY_S or not self.looking.acquire(blocking=False):
            return
        try:
            for client in self.clients:
                if client.connection.lost and (version := self._version_of(client.connection)) is not None:
                    _admit(client.connection, version, expected)
            self.looked = time.monotonic()
        finally:
            self.looking.release()

    def _version_of(self, connection: Connection) -> int | None:
        """The version that a server has; None: it is lost."""
        lost = bool(connection.lost)
        if lost and (self.version is not None or not connection.is_healthy()):
            return None
        try:
            return weight_version(connection, anew=lost)  # whichever start of it that is
        except RolloutLost as error:
            connection.lose(str(error))
            return None

    def _check_unchanged(self, version: int, prompts: int) -> None:
        """That no refit came between. A server that was lost after its last answer costs nothing."""
        for client in self.serving:
            try:
                now = client.weight_version()
            except RolloutLost as error:
                client.connection.lose(str(error))
                continue
            if now != version:
                raise RolloutError(f"weights changed from version {version} to {now} while {prompts} prompts sampled")


def _admit(connection: Connection, version: int, expected: int) -> None:
    """A server with the right weights serves; another one waits for its refit."""
    if version == expected:
        connection.rejoin()
    else:
        connection.lose(f"it serves weight version {version}, expected {expected}")


def requests_in_flight(sequences: int, cfg: RolloutConfig) -> int:
    """How many requests of so many sequences each server is sent at once: enough that each engine always has a waiting
    sequence, few enough for its queue."""
    return min(MAX_REQUESTS, ceil(1.5 * cfg.max_num_seqs / sequences)) * cfg.engines
