"""Bytes that the backward pass needs kept: activations of one micro-batch, by recomputation choice, and logits.

Counted tensor by tensor for one layer and token of the model as policy/model.py builds it: flash attention, and the
project's own rotary embedding, whose sines and cosines all layers share, and SwiGLU, which keeps its input alone. With
h hidden features, q and k of all query and all key heads, f of the MLP, t tensor-parallel ranks and s = t under
sequence parallelism, else 1:

- 4 h / s: the inputs of both norms and of what follows them
- (3 q + 3 k) / t: the QKV product, rotated queries and keys, and attention's output
- 3 f / t: gate and up, and their product

What LoRA's adapters keep beyond that, `lora.rank` numbers for each adapter and token, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.config.choices import HeadDtype, Recompute, names
from alphamed_nemo.plan.sizes import Model
from alphamed_nemo.plan.states import ELEMENT

RECOMPUTE = names(Recompute)

# Bytes an element of the logits [rows, vocabulary part] at the fullest moment, the backward pass of
# policy/logprobs.py: probabilities and three float32 temporaries, and the gradient in the head's type.
LOGIT_FLOATS = 4


@dataclass(frozen=True)
class Layer:
    """Bytes of one layer and token on one rank.

    Attributes:
        kept: until the backward pass.
        rebuilt: more of one layer at a time, while its backward pass runs.
    """

    kept: float
    rebuilt: float


def layer_bytes(model: Model, parallel: ParallelConfig, dtype: str, recompute: str) -> Layer:
    """Activations of one layer.

    Raises:
        ValueError: an unknown choice of recomputation.
    """
    if recompute not in RECOMPUTE:
        raise ValueError(f"model.recompute: found {recompute!r}, expected one of {', '.join(RECOMPUTE)}")
    element, tensor = ELEMENT[dtype], parallel.tensor
    hidden = model.hidden / (tensor if parallel.sequence else 1)
    attention = 3 * (model.queries + model.keys) / tensor
    mlp = 3 * model.ffn / tensor
    log_sums = 4 * model.heads / tensor  # flash attention's, float32
    everything = element * (4 * hidden + attention + mlp) + log_sums
    if recompute == "full":
        return Layer(element * hidden, everything)
    if recompute == "selective":
        return Layer(everything - element * (hidden + mlp), element * (hidden + mlp))
    return Layer(everything, 0.0)


def chunks_in_flight(parallel: ParallelConfig, stage: int, micro_batches: int) -> int:
    """Forward passes of a chunk that wait for their backward pass on a stage, at most.

    Source: Megatron's 1F1B and interleaved schedules (megatron/core/pipeline_parallel/schedules.py).
    """
    after, chunks = parallel.pipeline - 1 - stage, parallel.virtual_pipeline or 1
    warm_up = 2 * after + (chunks - 1) * parallel.pipeline if chunks > 1 else after
    return min(warm_up + 1, micro_batches * chunks)


def activation_bytes(
    model: Model, parallel: ParallelConfig, dtype: str, recompute: str, tokens: int, stage: int, micro_batches: int
) -> float:
    """Of one rank of a stage; `tokens` of a micro-batch, before context parallelism divides them."""
    layer = layer_bytes(model, parallel, dtype, recompute)
    tokens_here = tokens / parallel.context
    each = model.layers // (parallel.pipeline * (parallel.virtual_pipeline or 1))
    kept = each * layer.kept * chunks_in_flight(parallel, stage, micro_batches)
    head = 0.0
    if stage == parallel.pipeline - 1:  # the last norm's input and output
        head = 2 * ELEMENT[dtype] * model.hidden / (parallel.tensor if parallel.sequence else 1)
    return tokens_here * (kept + layer.rebuilt + head)


def logit_bytes(model: Model, parallel: ParallelConfig, dtype: str, head_dtype: HeadDtype, rows: float) -> float:
    """Of a rank of the last stage; `rows` of a micro-batch are response tokens, which alone have logits."""
    part = math.ceil(model.vocab / parallel.tensor)
    return rows / parallel.context * part * (4 * LOGIT_FLOATS + ELEMENT[dtype if head_dtype == "model" else head_dtype])
