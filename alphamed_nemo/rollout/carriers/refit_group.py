"""Groups of the trainer's rank 0 and the servers' workers, in which none waits for ever for a member that is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Lock, Thread, Timer
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")

GROUP_ENDED = "the group of this refit has ended"  # how an engine says that another member failed, and not itself


class Group(Protocol):
    """A group as one of its members sees it."""

    def broadcast(self, bucket: torch.Tensor) -> None:
        """Sends a bucket, uint8 [bytes], from rank 0, or fills it; returns when that is done."""

    def destroy(self) -> None:
        """Ends it; from any thread, also while another one waits in it, which then waits no longer."""


def in_background(work: Callable[[], T]) -> Future[T]:
    """Starts `work` in a thread that does not keep the interpreter alive: it may hang with a member that is gone."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=run, daemon=True).start()
    return future


@contextmanager
def limited(destroy: Callable[[], None], seconds: float) -> Iterator[None]:
    """Destroys a group when what is done in it takes longer.

    Raises:
        RuntimeError: it was destroyed; what has been received is worth nothing.
    """
    over, destroyed, deciding = Event(), Event(), Lock()

    def end() -> None:
        with deciding:
            if over.is_set():  # in the moment in which this began: nobody would learn of a group that ends now
                return
            destroyed.set()
        destroy()

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with deciding:
            over.set()
        if destroyed.is_set():
            raise RuntimeError(f"{GROUP_ENDED}: nothing arrived within {seconds:g} s")
