"""Buckets of weights that travel together, and what vLLM's engines are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from alphamed_nemo.rollout.carriers.sender import Weights
from alphamed_nemo.rollout.update_manifest import dtype_name


@dataclass
class Bucket:
    """Some weights of an update.

    Attributes:
        names, tensors: HF names and full tensors, on the trainer's device.
    """

    names: list[str] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor."""
        return [tensor.numel() * tensor.element_size() for tensor in self.tensors]

    def info(self) -> dict[str, Any]:
        """What vLLM's engines want to know of it: names, dtypes (as torch spells them) and shapes."""
        return {
            "names": self.names,
            "dtype_names": [dtype_name(tensor) for tensor in self.tensors],
            "shapes": [list(tensor.shape) for tensor in self.tensors],
        }

    def packed(self) -> torch.Tensor:
        """A copy of its bytes end to end, uint8 [bytes], written when this returns."""
        flat = torch.cat([tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in self.tensors])
        if flat.is_cuda:
            torch.cuda.current_stream().synchronize()
        return flat


def buckets(weights: Weights, bucket_bytes: int) -> Iterator[Bucket]:
    """Groups weights into buckets of at most `bucket_bytes`; one larger weight is alone in its own.

    So an engine that cuts packed weights where they exceed `bucket_bytes`, as vLLM's does, cuts none of them.
    """
    bucket, size = Bucket(), 0
    for name, tensor in weights:
        nbytes = tensor.numel() * tensor.element_size()
        if bucket.names and size + nbytes > bucket_bytes:
            yield bucket
            bucket, size = Bucket(), 0
        bucket.names.append(name)
        bucket.tensors.append(tensor)
        size += nbytes
    if bucket.names:
        yield bucket
