"""The reference policy of a KL term: the base model's weights, kept on the CPU and swapped in where they are needed.

With adapters (policy/lora.py) the base model's weights are still there: it is the policy without its adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from alphamed_nemo.policy.lora import adapter_settings, without_adapters
from alphamed_nemo.policy.optimizer import gather_weights
from alphamed_nemo.policy.packing import PackedBatch
from alphamed_nemo.policy.policy import MegatronPolicy


class ReferencePolicy:
    """The policy as it was when this was made; costs no device memory beyond it.

    Args:
        policy: freshly loaded from the base model, before a checkpoint is read into it.
    """

    def __init__(self, policy: MegatronPolicy) -> None:
        self.policy = policy
        self.weights: list[Tensor] = []
        self.adapted = adapter_settings(policy.model[0]) is not None
        if not self.adapted:
            self.weights = [parameter.detach().to("cpu", copy=True) for parameter in self._parameters()]

    def logprobs(self, batches: Sequence[PackedBatch], temperature: float) -> list[Tensor]:
        """As `MegatronPolicy.logprobs`, under the reference's weights. Collective."""
        with without_adapters(self.policy.model) if self.adapted else self._swapped_in():
            return self.policy.logprobs(batches, temperature)

    @contextmanager
    def _swapped_in(self) -> Iterator[None]:
        """Copies in place: Megatron's parameters are views of its own buffers and must stay so."""
        with torch.no_grad():
            gather_weights(self.policy.model)
            current = [parameter.detach().to("cpu", copy=True) for parameter in self._parameters()]
            self._write(self.weights)
            try:
                yield
            finally:
                self._write(current)

    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters(), values, strict=True):
            parameter.copy_(value)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for chunk in self.policy.model for parameter in chunk.parameters()]
