"""What every carrier of weights does: meet the workers, send an update, or end one that could not be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from alphamed_nemo.rollout.connection import Connection
from alphamed_nemo.rollout.receivers import Receivers

Weights = Iterator[tuple[str, torch.Tensor]]  # HF name, full tensor


class Sender(Protocol):
    """What carries tensors from the trainer to the workers of every server.

    Each refit has receivers of its own: a server that was lost is not among them, and one that is back, which knows
    nothing of earlier refits, is. What the sender asks of servers goes through them, so that a loss stays one server's.

    Attributes:
        partial: a server may hold a part of an update that did not end, and none must sample.
    """

    partial: bool

    def open(self, receivers: Receivers) -> None:
        """Meet the workers of those that this refit reaches; called while the engines are paused, before the update
        starts."""

    def send(self, weights: Weights) -> int:
        """Send all of them and return the bytes. The workers of every server that is left hold them, checked, when this
        returns."""
        ...

    def abort(self, connection: Connection) -> None:
        """End an update that could not be sent, on one server. An error of the server's is no surprise."""

    def close(self) -> None:
        """Free what the refits share."""
