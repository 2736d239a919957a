"""Refit over NCCL, for rollout servers on GPUs of their own: the trainer's end."""

from __future__ import annotations

import socket
from typing import Any

import torch

BUCKET_BYTES = 2**30  # the workers hold no more than this besides the model


class NcclTransport:
    """NCCL by vLLM's own communicator, as rank 0 of the trainer uses it."""

    bucket_bytes = BUCKET_BYTES
    # A bucket of at most this size is one broadcast in vLLM's packed form (vllm/distributed/weight_transfer, 0.32).
    init_info: dict[str, Any] = {"packed": True, "packed_buffer_size_bytes": BUCKET_BYTES}

    def __init__(self) -> None:
        self.device = torch.cuda.current_device()  # which each thread has its own of

    def join(self, listener: socket.socket, ranks: int, limit_s: float) -> NcclGroup:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        address, port = listener.getsockname()[:2]
        met = StatelessProcessGroup.create(address, port, 0, ranks, store_timeout=int(limit_s), listen_socket=listener)
        with unpinned_nccl_env():  # both ends with the settings of the job, without those that vLLM pins for itself
            return NcclGroup(PyNcclCommunicator(met, device=self.device), self.device)


class NcclGroup:
    """A communicator, with a CUDA stream of its own: what the trainer computes meanwhile does not wait for it."""

    def __init__(self, communicator: Any, device: int) -> None:
        self.communicator = communicator
        self.stream = torch.cuda.Stream(device)

    def broadcast(self, bucket: torch.Tensor) -> None:
        with torch.cuda.stream(self.stream):
            self.communicator.broadcast(bucket, src=0, stream=self.stream)
            self.stream.synchronize()  # for ever, where a member is gone, unless another thread destroys the group

    def destroy(self) -> None:
        """NCCL aborts what is under way."""
        self.communicator.destroy()
