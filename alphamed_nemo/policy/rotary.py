"""The rotary embedding by this project's own operator, in the local layers and in Transformer Engine's.

Megatron's unfused one cuts a pack into its sequences, for which the host waits for the GPU four times in each layer,
and computes sines and cosines anew each time; its fused one, as its fused SwiGLU, moves the trainer's log-probs away
from the rollout engine's (NeMo-RL issue 1801). Here the angles are computed once for a pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from alphamed_nemo.policy.local.operators import rotate


@dataclass
class RotaryParams(PackedSeqParams):
    """A pack whose queries and keys the attention turns.

    Attributes:
        cos, sin: float32 [T, 1, head dimension / 2] of the rotary embedding's angles (`policy/gpt.py` sets them).
    """

    cos: Tensor | None = None
    sin: Tensor | None = None

    @classmethod
    def of(cls, bounds: Tensor, max_seqlen: int, **more: Any) -> Any:
        """
        Args:
            bounds: int32 [S + 1], where sequences begin and end.
            max_seqlen: of the longest.
        """
        return cls("thd", bounds, bounds, max_seqlen_q=max_seqlen, max_seqlen_kv=max_seqlen, **more)

    def turned(self, *tensors: Tensor) -> list[Tensor]:
        """[T, heads, head dimension] each → the same in float32, with the rotary embedding."""
        assert self.cos is not None and self.sin is not None, "the model's _preprocess sets the angles"
        return [rotate(x, self.cos, self.sin) for x in tensors]


def with_rotation(attention: type) -> type:
    """A `core_attention` of Megatron's that takes queries and keys before the rotary embedding."""
    return type(f"Rotated{attention.__name__}", (_Rotating, attention), {})


class _Rotating:
    def forward(self, query: Tensor, key: Tensor, *args: Any, packed_seq_params: PackedSeqParams, **kwargs: Any) -> Any:
        assert isinstance(packed_seq_params, RotaryParams)
        turned = (x.to(query.dtype) for x in packed_seq_params.turned(query, key))
        inherited: Any = super()
        return inherited.forward(*turned, *args, packed_seq_params=packed_seq_params, **kwargs)
