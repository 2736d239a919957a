"""Megatron's GPTModel, which can compute logits for some positions only, and takes samples that share a prompt."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor

from alphamed_nemo.policy.rotary import RotaryParams


class PolicyGPTModel(GPTModel):
    """GPTModel with logits at the rows asked for.

    Only response tokens have a loss. Leaving the other positions out of the last matrix product, which is the largest
    one, saves its time and the memory of their logits.
    """

    _rows: Tensor | None = None

    def forward(self, *args: Any, rows: Tensor | None = None, **kwargs: Any) -> Tensor:
        """As GPTModel's.

        Args:
            rows: int64 [N], positions of the pack whose logits the last stage returns; None: all.

        Returns:
            On the last stage logits [1, N, V_part], on the others hidden states of all positions.
        """
        self._rows = rows
        return super().forward(*args, **kwargs)

    def _preprocess(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        found = super()._preprocess(*args, **kwargs)
        packed = kwargs["packed_seq_params"]
        if not isinstance(packed, RotaryParams):
            return found
        # The attention turns queries and keys itself, by angles of T tokens; Megatron would count positions from 0 in
        # each segment. Rounded to the model's dtype, as Megatron's and the rollout engine's are.
        decoder_input, angles, *others = found
        assert isinstance(angles, Tensor)
        half = angles[kwargs["position_ids"].squeeze(0), 0, :, : angles.shape[-1] // 2]
        packed.cos, packed.sin = (x.to(self.config.params_dtype).float() for x in (half.cos(), half.sin()))
        return decoder_input, None, *others

    def _postprocess(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.post_process and self.config.sequence_parallel:
            # A rank has the hidden states of its own part of the positions, and the output layer would gather all. Here
            # they are gathered before the rows are taken, and the layer sums the gradients as without that.
            chosen = self._rows is not None
            self.output_layer.sequence_parallel, self.output_layer.allreduce_dgrad = not chosen, chosen
            if chosen:
                hidden_states = gather_from_sequence_parallel_region(hidden_states, tensor_parallel_output_grad=False)
        if self.post_process and self._rows is not None:
            hidden_states = hidden_states.index_select(0, self._rows)
        return super()._postprocess(hidden_states, *args, **kwargs)
