"""The servers that one refit reaches, called together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from alphamed_nemo.rollout.connection import Connection, RolloutError, RolloutFailed, RolloutLost

T = TypeVar("T")


class Receivers:
    """Servers that take part in a refit. One that is lost meanwhile takes no further part.

    Attributes:
        accepted: those that did what was last asked, before another one refused it.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = list(connections)
        self.accepted: list[Connection] = []

    @property
    def present(self) -> list[Connection]:
        return [connection for connection in self.connections if not connection.lost]

    def call(self, method: str, path: str, waiting_for: str, **request: Any) -> None:
        """The same request to each of them at once. See `Connection.call` for the arguments, `each` for errors."""
        self.each(lambda connection: connection.call(method, path, waiting_for, **request))

    def each(self, act: Callable[[Connection], T], only: Sequence[Connection] | None = None) -> dict[Connection, T]:
        """Does something with each of them at once, and waits for all.

        Args:
            only: leaves out others.

        Returns:
            What each gave; a server that was lost over it gave nothing.

        Raises:
            RolloutError: a server refused; the first of them.
            RolloutLost: none is left.
        """
        asked = [connection for connection in self.present if only is None or connection in only]
        given, refused = {}, None
        if asked:
            with ThreadPoolExecutor(len(asked), thread_name_prefix="refit") as pool:
                pending = {connection: pool.submit(act, connection) for connection in asked}
            for connection, done in pending.items():
                try:
                    given[connection] = done.result()
                except RolloutFailed as error:
                    if connection.is_healthy():
                        refused = refused or error
                    else:
                        connection.lose(str(error))
                except RolloutLost as error:
                    connection.lose(str(error))
                except RolloutError as error:
                    refused = refused or error
        self.accepted = list(given)
        if refused is not None:
            raise refused
        if not self.present:
            raise RolloutLost("; ".join(connection.lost for connection in self.connections))
        return given
