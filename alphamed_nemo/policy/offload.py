"""What the trainer gives back while a server samples on its devices, and takes again before the next update.

| while | trainer's devices hold | the server's memory there |
| --- | --- | --- |
| rollouts are sampled | weights | weights and cache |
| the policy is updated | weights, gradients, optimizer state, activations | none: it sleeps |

Gradients are freed, since each update begins from zeros. The optimizer's state, Adam's moments and for bfloat16 models
the float32 parameters, moves to the host. What torch's allocator keeps of freed blocks goes back to the system. The
weights stay: they go to the server next, and the check after a refit computes with them. `plan/states.py` predicts the
bytes.

Who takes what when: the server sleeps before `take`, and `give_back` comes before it wakes (grpo/recovery.py), so that
neither finds the other's memory taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor

from alphamed_nemo.policy.local.heap import HEAP

log = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True)
class GivenBack:
    """Bytes of a rank's device: gradients that were freed, and optimizer state that was moved to the host."""

    gradients: int
    optimizer: int


class Offload:
    """Gradients and optimizer state of one rank, on its device or away from it.

    While it is away the optimizer's state can be read (a checkpoint needs nothing back), but no update can be made.
    Megatron's own `offload_to_cpu` of the optimizer would cut the parameters of a float32 model, which are views of the
    weights, off from them, and copies through memory that is not pinned.

    Args:
        chunks: of this rank, wrapped for training.
        optimizer: Megatron's, with the distributed optimizer.
        device: where the state lives; tensors elsewhere (`optim.offload`) are left alone.
    """

    def __init__(self, chunks: Sequence[DistributedDataParallel], optimizer: Any, device: torch.device) -> None:
        self.chunks, self.optimizer, self.device = chunks, optimizer, device
        self.away: list[Tensor] = []  # what is on the host now
        self.given: GivenBack | None = None  # None: all is here
        # On GPUs host memory is pinned, which takes a second for some gigabytes, and is therefore kept between rounds.
        self.pinned: dict[Tensor, Tensor] = {}

    def give_back(self) -> GivenBack:
        """Frees the gradients and moves the optimizer's state to the host; does nothing where that is done.

        Returns:
            The bytes of this rank's device that it freed.
        """
        if self.given is not None:
            return self.given
        # Megatron's own list, which has the name of a method of torch's modules.
        buffers = [buffer.grad_data for chunk in self.chunks for buffer in vars(chunk)["buffers"]]
        gradients = sum(size(buffer) for buffer in buffers)
        for chunk in self.chunks:
            chunk.offload_grad_buffers(empty_cache=False)
        self.away = [tensor for tensor in self._state() if tensor.device.type == self.device.type]
        moved = [(tensor, self._host(tensor)) for tensor in self.away]
        for tensor, host in moved:
            host.copy_(tensor, non_blocking=True)
        torch.cuda.synchronize()  # what is freed next has arrived
        for tensor, host in moved:
            tensor.data = host
        torch.cuda.empty_cache()
        HEAP.give_back()
        self.given = GivenBack(gradients, sum(map(size, self.away)))
        text = "while rollouts are sampled: %.2f GiB of gradients are freed, %.2f GiB of optimizer state on the host"
        log.debug(text, gradients / GIB, self.given.optimizer / GIB)
        return self.given

    def take(self) -> None:
        """Brings the optimizer's state back, and the gradients, as zeros; does nothing where they are here."""
        if self.given is None:
            return
        for tensor in self.away:
            tensor.data = torch.empty_like(tensor, device=self.device).copy_(tensor, non_blocking=True)
        self.away, self.given = [], None
        for chunk in self.chunks:
            chunk.restore_grad_buffers()  # waits for the copies, too

    def _state(self) -> Iterator[Tensor]:
        """The tensors that Adam reads and writes beside the weights: moments, and parameters where they are copies."""
        for part in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            for group in part.shard_fp32_from_float16_groups:
                yield from (tensor for tensor in group if tensor is not None)
            for values in part.optimizer.state.values():
                yield from (value for value in values.values() if isinstance(value, Tensor) and value.dim())

    def _host(self, tensor: Tensor) -> Tensor:
        """Host memory for a tensor of the device."""
        if self.device.type == "cpu":
            return torch.empty_like(tensor)
        if tensor not in self.pinned:
            self.pinned[tensor] = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return self.pinned[tensor]


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
