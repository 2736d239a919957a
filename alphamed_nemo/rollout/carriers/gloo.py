"""Refit over gloo, for rollout servers on other CPU hosts than the trainer's rank 0. Used on both ends.

No default process group is touched: the trainer's and vLLM's own stay as they are.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

BUCKET_BYTES = 64 * 2**20  # so that the next one is gathered and sent while vLLM loads the last


class GlooTransport:
    """Gloo, as rank 0 of the trainer uses it."""

    bucket_bytes = BUCKET_BYTES
    init_info: dict[str, Any] = {}

    def join(self, listener: socket.socket, ranks: int, limit_s: float) -> GlooGroup:
        address, port = listener.getsockname()[:2]
        return GlooGroup(address, port, 0, ranks, limit_s, address, listener)


class GlooGroup:
    """One member's end of a group.

    Args:
        address, port: where rank 0 listens.
        rank, ranks: of this member, and how many there are.
        limit_s: of forming the group, and of each broadcast.
        own_address: of this member, at which the others reach it.
        listener: on rank 0, the socket that listens.

    Raises:
        RuntimeError: the others did not come within the limit.
    """

    def __init__(
        self,
        address: str,
        port: int,
        rank: int,
        ranks: int,
        limit_s: float,
        own_address: str,
        listener: socket.socket | None = None,
    ) -> None:
        limit = timedelta(seconds=limit_s)
        # Public in torch's documentation, but missing in the module's list of what it exports.
        self.store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            address,
            port,
            is_master=rank == 0,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=None if listener is None else listener.detach(),
        )
        backend: Any = dist.ProcessGroupGloo  # whose stub knows neither its options nor its collectives
        options = backend._Options()
        options._devices = [backend.create_device(hostname=own_address)]
        options._timeout = limit
        self.group = backend(self.store, rank, ranks, options)

    def broadcast(self, bucket: torch.Tensor) -> None:
        """From rank 0 to the others.

        Raises:
            RuntimeError: a member is gone, or it takes longer than the limit.
        """
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self.group.broadcast([bucket], options).wait()

    def destroy(self) -> None:
        self.group.shutdown()
