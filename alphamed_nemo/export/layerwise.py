"""Runs a model whose weights are not in memory: each part of it has its own while it runs, and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module, Parameter

from alphamed_nemo.policy.weights.stored import Read


def lend_weights(model: Module, parts: Sequence[tuple[Module, Module]], read: Read) -> None:
    """Makes a model on the meta device ready to run its own forward pass.

    Args:
        model: loses its parameters' shapes; buffers stay as they are.
        parts: what runs and whose weights it needs: the same module, or for a tied output layer the embedding. A
            part's weights are read before each of its calls, so run everything in one pass.
        read: gives them, on the device where the model runs.
    """
    _without_memory(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    lent = set()
    for part, owner in parts:
        loan = _Loan({names[parameter]: parameter for parameter in owner.parameters()}, read)
        part.register_forward_pre_hook(loan.give)
        part.register_forward_hook(loan.take_back)
        lent.update(loan.parameters)
    assert lent == set(names.values()), f"no part has {sorted(set(names.values()) - lent)}"


@dataclass(frozen=True)
class _Loan:
    parameters: dict[str, Parameter]
    read: Read

    def give(self, *_call: Any) -> None:
        values = self.read(list(self.parameters))
        for name, parameter in self.parameters.items():
            parameter.data = values.pop(name)

    def take_back(self, *_call: Any) -> None:
        for parameter in self.parameters.values():
            parameter.data = parameter.new_empty(0)


def _without_memory(model: Module) -> None:
    """Empty parameters for those on the meta device, whose data torch would not exchange; tied ones stay tied."""
    empty: dict[Parameter, Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                assert parameter.is_meta, name
                module._parameters[name] = empty.setdefault(parameter, Parameter(torch.empty(0)))
