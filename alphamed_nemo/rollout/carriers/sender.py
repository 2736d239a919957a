"""What every carrier of weights does: meet the workers, send an update, or end one that could not be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

Weights = Iterator[tuple[str, torch.Tensor]]  # HF name, full tensor


class Sender(Protocol):
    """What carries tensors from the trainer to the engine's workers.

    Attributes:
        partial: the engine may hold a part of an update that did not end, and must not sample.
    """

    partial: bool

    def open(self) -> None:
        """Meet the workers; called while the engine is paused, before the update starts."""

    def send(self, weights: Weights) -> int:
        """Send all of them and return the bytes. The workers hold them, checked, when this returns."""
        ...

    def abort(self) -> None:
        """End an update that could not be sent."""

    def close(self) -> None:
        """Free what the refits share."""
