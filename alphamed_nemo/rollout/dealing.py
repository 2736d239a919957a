"""Which server gets which request: the one with the fewest expected tokens under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import RolloutLost
from alphamed_nemo.rollout.sampling import Request, Sampling
from alphamed_nemo.rollout.types import Rollout

RECENT = 64  # groups over which the expected length of a response is averaged: it follows the policy


class Dealer:
    """Deals requests to the servers that are not lost. Thread-safe.

    The sooner a server answers, the sooner it gets the next one, so a slow server, or one with long answers, gets
    fewer. Nothing that is sampled depends on it: a request brings its own seed.
    """

    def __init__(self, clients: Sequence[RolloutClient]) -> None:
        self.clients = clients
        self.under_way = [0] * len(clients)  # expected tokens
        self.mean_length: float | None = None  # tokens of a response; None: no answer yet
        self.lock = threading.Lock()

    @contextmanager
    def server(self, request: Request, sampling: Sampling) -> Iterator[RolloutClient]:
        """The server for a request, which then is under way.

        Raises:
            RolloutLost: all servers are lost; says why.
        """
        with self.lock:
            serving = [number for number, client in enumerate(self.clients) if not client.connection.lost]
            if not serving:
                raise all_lost(self.clients)
            chosen = min(serving, key=self.under_way.__getitem__)
            tokens = self._expected(request, sampling)
            self.under_way[chosen] += tokens
        try:
            yield self.clients[chosen]
        finally:
            with self.lock:
                self.under_way[chosen] -= tokens

    def learn(self, groups: Sequence[Sequence[Rollout]]) -> None:
        """Takes the lengths of an answer into the expected length."""
        with self.lock:
            for group in groups:
                length = sum(len(rollout.response_ids) for rollout in group) / len(group)
                known = length if self.mean_length is None else self.mean_length
                self.mean_length = known + (length - known) / RECENT

    def _expected(self, request: Request, sampling: Sampling) -> int:
        """Tokens of a request: its prompts, and its responses as long as the recent ones, or as they may be."""
        longest = sampling.max_new_tokens
        response = longest if self.mean_length is None else min(self.mean_length, longest)
        return sum(map(len, request.prompts)) + round(len(request.prompts) * sampling.n * response)


def all_lost(clients: Sequence[RolloutClient]) -> RolloutLost:
    """That no server is left, and why each was lost."""
    return RolloutLost("; ".join(client.connection.lost for client in clients))
