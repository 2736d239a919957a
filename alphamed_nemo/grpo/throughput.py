"""How well a step uses its devices: tokens for each of them, and model FLOPs utilisation (MFU)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from alphamed_nemo import devices
from alphamed_nemo.families import Dimensions
from alphamed_nemo.policy.packing import TrainSequence


def training_operations(model: Dimensions, sequences: Iterable[TrainSequence], frozen: bool = False) -> float:
    """Floating-point operations of a forward and a backward pass, recomputation and what is not a product left out.

    6 for each parameter of a layer's matrices and token, as much for the output matrix and each response token, which
    alone have logits, and 6 · layers · query features · length² for causal attention's two products. With LoRA 4 in the
    place of the first 6: a frozen matrix has no gradient of its own. The adapters' own products are left out.

    Source: PaLM, https://arxiv.org/abs/2204.02311 appendix B, with attention halved by its mask.
    """
    queries = model.heads * model.head_dim
    layer = sum(math.prod(shape) for shape in model.layer_tensors().values() if len(shape) > 1)
    of_matrix, total = 4.0 if frozen else 6.0, 0.0
    for sequence in sequences:
        length = len(sequence) - 1  # nothing is predicted from the last token
        total += model.layers * (of_matrix * layer * length + 6.0 * queries * length**2)
        total += of_matrix * model.hidden * model.vocab * len(sequence.response_ids)
    return total


def peak_operations(card: str) -> float | None:
    """Dense BF16 operations per second of a card by torch's or nvidia-smi's name of it; None where it is not known."""
    return next((tflops * 1e12 for name, tflops in devices.BF16_TFLOPS.items() if name in card.lower()), None)
