"""Groups are scored while others are sampled, so that only the last ones are waited for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Self

from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardItem, Score

SCORED_TOGETHER = 64  # responses: enough for one request, few enough that only the last ones are waited for


class Scoring:
    """Sends groups to the reward server from a thread of its own, several to a request.

    Leaving the `with` block by an error leaves nothing behind in the queue.
    """

    def __init__(self, rewards: RewardClient) -> None:
        self.rewards = rewards
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self.waiting: list[tuple[int, list[RewardItem]]] = []
        self.sent: list[tuple[dict[int, int], Future[list[Score]]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.thread.shutdown(cancel_futures=True)

    def add(self, index: int, items: list[RewardItem]) -> None:
        """One group's responses, to be found under `index` by `scores`."""
        self.waiting.append((index, items))
        if sum(len(items) for _, items in self.waiting) >= SCORED_TOGETHER:
            self._send()

    def scores(self) -> dict[int, list[Score]]:
        """The scores of all groups, in the order of each group's responses.

        Raises:
            RewardError: the reward server failed.
        """
        if self.waiting:
            self._send()
        found: dict[int, list[Score]] = {}
        for sizes, future in self.sent:
            given = iter(future.result())
            found |= {index: list(islice(given, size)) for index, size in sizes.items()}
        return found

    def _send(self) -> None:
        items = [item for _, items in self.waiting for item in items]
        sizes = {index: len(items) for index, items in self.waiting}
        self.sent.append((sizes, self.thread.submit(self.rewards.score, items)))
        self.waiting = []
