"""The second half of a conversion's proof: Megatron and transformers compute the same logits.

Each computes them by its own code on the same sequences, with one layer in memory at a time and in float64 throughout
(`export/float64.py`). The limit on their difference follows from the model. Rounding errors are amplified on their way
through a network, by how much depends on its weights, and transformers' own float32 logits show it: they differ from
its float64 logits by the amplification of float32's rounding. What float64 may differ by is that difference, scaled to
float64's precision, times a margin:

    limit = MARGIN · ε₆₄ · max(|L₃₂ − L₆₄| / ε₃₂, |L₆₄|)      (largest over all positions and the whole vocabulary)

SmolLM2-135M-Instruct: logits up to 35, float32 off by 8.5e-4, a limit of 1e-10; the two frameworks differ by 5e-13.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.errors import ConversionError
from alphamed_nemo.export.float64 import Float64
from alphamed_nemo.export.layerwise import lend_weights
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.local.attention import SegmentParams
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.weights.hf_folder import HfFolder
from alphamed_nemo.policy.weights.stored import Read

# The two frameworks add in different orders, so their errors are alike in size and not equal: 0.2 to 2 times
# transformers' own in all models tried. The least step of one float32 weight is some 1e8 times as large.
MARGIN = 64


def probe(vocab_size: int, seed: int = 0, lengths: Sequence[int] = (1, 17, 64)) -> list[list[int]]:
    """Token ids that reach over the whole vocabulary, for a comparison."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]


@torch.no_grad()
def megatron_logits(
    hf_config: Any, read: Read, token_ids: Sequence[list[int]], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """What Megatron computes, holding one layer, the embedding or the output projection at a time.

    Args:
        hf_config: of the model.
        read: weights by the names of Megatron's parameters.
        token_ids: the sequences; all go through in one pack.
        dtype: float32 or float64, of weights and of all that is computed.

    Returns:
        Logits [T, vocabulary] on the CPU, for each sequence.
    """
    device = runtime.device()
    with Float64() if dtype is torch.float64 else nullcontext() as wide:
        skeleton = build_skeleton(hf_config)
        embedding, decoder, output = skeleton.embedding, skeleton.decoder, skeleton.output_layer
        norm = decoder.final_layernorm
        assert isinstance(norm, Module) and isinstance(output, Module)
        parts: list[tuple[Module, Module]] = [(part, part) for part in (embedding, *decoder.layers, norm)]
        parts.append((output, embedding if skeleton.share_embeddings_and_output_weights else output))
        typed = wide.widened(read) if wide else partial(_float32, read)
        lend_weights(skeleton, parts, lambda names: {name: tensor.to(device) for name, tensor in typed(names).items()})
        return _packed_logits(skeleton, token_ids, device)


def _packed_logits(skeleton: GPTModel, token_ids: Sequence[list[int]], device: torch.device) -> list[Tensor]:
    lengths = list(map(len, token_ids))
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    packed = SegmentParams.of(bounds, max(lengths))
    tokens = torch.tensor([sum(token_ids, [])], device=device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    logits = skeleton(tokens, positions, None, packed_seq_params=packed)
    return list(logits[0].cpu().split(lengths))


@torch.no_grad()
def transformers_logits(
    hf_folder: str | Path, token_ids: Sequence[list[int]], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """What transformers computes from a folder's files, holding as little as `megatron_logits`.

    Args:
        hf_folder: config.json and safetensors; like transformers it passes over tensors that the model does not have.
        token_ids: the sequences. All go through in one batch, padded on the right: under the causal mask no token sees
            what comes after it.
        dtype: float32 or float64, of weights and of all that is computed.

    Returns:
        Logits [T, vocabulary], on the CPU, for each sequence.

    Raises:
        ValueError: the folder lacks a weight of transformers' model, or has it in another shape; names the tensor.
    """
    config = AutoConfig.from_pretrained(hf_folder)
    with Float64() if dtype is torch.float64 else nullcontext() as wide, HfFolder(hf_folder) as files:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        body = model.model
        body.rotary_emb = type(body.rotary_emb)(config)  # computed from the config and in no file
        parts = [(part, part) for part in (body.embed_tokens, *body.layers, body.norm, model.lm_head)]
        files.check({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, lambda name: True)

        def read(names: list[str]) -> dict[str, Tensor]:
            return {name: files.tensor(name, torch.float32) for name in names}

        lend_weights(model, parts, wide.widened(read) if wide else read)
        tokens = pad_sequence([torch.tensor(ids) for ids in token_ids], batch_first=True)
        logits = model(tokens, use_cache=False).logits
    return [row[: len(ids)] for row, ids in zip(logits, token_ids, strict=True)]


def compare_logits(
    megatron: Sequence[Tensor], hf_folder: str | Path, token_ids: Sequence[list[int]]
) -> tuple[float, float]:
    """Compares Megatron's float64 logits with those that transformers computes from a folder.

    Args:
        megatron: [T, vocabulary] for each sequence, float64.
        hf_folder: the model to check.
        token_ids: the sequences.

    Returns:
        The largest absolute difference, and the limit.

    Raises:
        ConversionError: it exceeds the limit, or a logit is not a number.
    """
    exact = transformers_logits(hf_folder, token_ids, torch.float64)
    rounded = transformers_logits(hf_folder, token_ids, torch.float32)
    for program, logits in (("transformers", rounded), ("transformers", exact), ("Megatron", megatron)):
        _refuse_non_finite(program, logits)
    limit = rounding_limit(exact, rounded)
    largest = 0.0
    for sequence, (ours, theirs) in enumerate(zip(megatron, exact, strict=True)):
        assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
        differences = (ours - theirs).abs()
        position, token = _first(differences == differences.max())
        difference = differences[position, token].item()
        if difference > limit:
            raise ConversionError(
                f"{_place(sequence, position, token)}: transformers computes {theirs[position, token]:.15g} and "
                f"Megatron {ours[position, token]:.15g} in float64; they differ by {difference:.1e}, and the model's "
                f"own rounding explains {limit:.1e}: the conversion is wrong"
            )
        largest = max(largest, difference)
    return largest, limit


def _refuse_non_finite(program: str, logits: Sequence[Tensor]) -> None:
    for sequence, values in enumerate(logits):
        if not values.isfinite().all():
            position, token = _first(~values.isfinite())
            kind = str(values.dtype).removeprefix("torch.")
            raise ConversionError(
                f"{_place(sequence, position, token)}: {program} computes {values[position, token]} in {kind}, "
                "expected a finite number: the weights are damaged or too large"
            )


def _place(sequence: int, position: int, token: int) -> str:
    return f"logit of token {token} at position {position} of probe sequence {sequence}"


def _first(marked: Tensor) -> tuple[int, int]:
    """Where the first true element of a bool matrix is."""
    position, token = marked.nonzero()[0].tolist()
    return position, token


def rounding_limit(exact: Sequence[Tensor], rounded: Sequence[Tensor]) -> float:
    """How far two programs may be apart in float64: see the top of this file.

    Args:
        exact: logits of each sequence, computed in float64.
        rounded: the same by the same program in float32.
    """
    error = max((a - b).abs().max().item() for a, b in zip(exact, rounded, strict=True))
    largest = max(a.abs().max().item() for a in exact)
    single, double = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
    return MARGIN * double * max(error / single, largest)


def _float32(read: Read, names: list[str]) -> dict[str, Tensor]:
    weights = read(names)
    return {name: weights.pop(name).float() for name in names}
