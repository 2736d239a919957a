"""Which of its compiled kernels vLLM loads on a CPU host: for AVX2, for AVX-512, or for AVX-512 with bfloat16.

vLLM asks torch what the processor has, and torch answers without regard to the variables that limit torch itself and
oneDNN. So that these hold for all of a server, torch's answers to vLLM are lowered as well.
"""

from __future__ import annotations

from alphamed_nemo.processor import this_processor

# Torch's questions, with the level of processor.X86 that the answer needs.
QUESTIONS = {
    "_is_avx512_supported": "AVX-512",
    "_is_avx512_bf16_supported": "AVX-512 BF16",
    "_is_amx_tile_supported": "AMX",
}


def apply_limits() -> None:
    """To be called in each of vLLM's processes before it loads its kernels, which it does while it is imported."""
    import torch

    processor = this_processor()
    if not processor.limits:
        return
    for question, level in QUESTIONS.items():
        if level not in processor.instructions:
            setattr(torch.cpu, question, bool)  # answers False
