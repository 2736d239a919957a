"""What the reward server counts, as Prometheus text."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from alphamed_nemo.rewards.score import Score


class ServerMetrics:
    """Counters of one server, in a registry of their own.

    Args:
        weighted: rewards are sums of functions, which may be negative.
    """

    def __init__(self, weighted: bool = False) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "alphamed_reward_requests", "Requests to /score by status", ["status"], registry=self.registry
        )
        self._items = Counter("alphamed_reward_items", "Scored responses by result", ["result"], registry=self.registry)
        if weighted:  # a counter cannot fall
            self._rewards = Gauge(
                "alphamed_reward_weighted_sum", "Sum of the weighted rewards given", registry=self.registry
            )
        else:
            self._rewards = Counter("alphamed_reward_sum", "Sum of the rewards given", registry=self.registry)
        self._too_long = Counter(
            "alphamed_reward_too_long", "Responses that were too long to be read", registry=self.registry
        )
        self._failures = Counter("alphamed_reward_failures", "Requests refused or failed", registry=self.registry)
        self._seconds = Histogram(
            "alphamed_reward_request_seconds",
            "Time from the head of a request to its answer",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        )

    def scored(self, scores: list[Score]) -> None:
        for result, count in Tally(score.reason for score in scores).items():
            self._items.labels(result).inc(count)
        self._rewards.inc(sum(score.reward for score in scores))

    def too_long(self, count: int) -> None:
        self._too_long.inc(count)

    def answered(self, seconds: float) -> None:
        self._requests.labels("200").inc()
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        self._requests.labels(str(status)).inc()
        self._failures.inc()

    def text(self) -> str:
        return generate_latest(self.registry).decode()
