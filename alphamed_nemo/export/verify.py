"""The last step of every conversion: transformers, given the folder, must compute what Megatron computes.

Both sides run in float32, each by its framework's own code, with one layer in memory at a time. Weights that a bfloat16
release rounds are rounded on Megatron's side, too, before the comparison, so the tolerance does not depend on the type
of the release: it covers the order of additions and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.export.layerwise import lend_weights
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.attention import SegmentParams
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.weights import Read
from alphamed_nemo.policy.weights.folder import HfFolder


class ConversionError(RuntimeError):
    """The two frameworks disagree about a model: it must not be used."""


def probe(vocab_size: int, seed: int = 0, lengths: Sequence[int] = (1, 17, 64)) -> list[list[int]]:
    """Token ids that reach over the whole vocabulary, for a comparison."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]


@torch.no_grad()
def megatron_logits(skeleton: GPTModel, read: Read, token_ids: Sequence[list[int]]) -> list[Tensor]:
    """What Megatron computes, holding one layer, the embedding or the output projection at a time.

    Args:
        skeleton: from `build_skeleton`; cannot be used for anything else afterwards.
        read: float32 weights by the names of its parameters.
        token_ids: the sequences; all go through in one pack.

    Returns:
        Logits [T, vocabulary], float32 on the CPU, for each sequence.
    """
    device = runtime.device()
    embedding, decoder, output = skeleton.embedding, skeleton.decoder, skeleton.output_layer
    parts = [(part, part) for part in (embedding, *decoder.layers, decoder.final_layernorm)]
    parts.append((output, embedding if skeleton.share_embeddings_and_output_weights else output))
    lend_weights(skeleton, parts, lambda names: {name: tensor.to(device) for name, tensor in read(names).items()})

    lengths = list(map(len, token_ids))
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    packed = SegmentParams.of(bounds, None, max(lengths))
    tokens = torch.tensor([sum(token_ids, [])], device=device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    logits = skeleton(tokens, positions, None, packed_seq_params=packed)
    return list(logits[0].float().cpu().split(lengths))


@torch.no_grad()
def transformers_logits(hf_folder: str | Path, token_ids: Sequence[list[int]]) -> list[Tensor]:
    """What transformers computes in float32 from a folder's files, holding as little as `megatron_logits`.

    Args:
        hf_folder: config.json and safetensors; like transformers it passes over tensors that the model does not have.
        token_ids: the sequences. All go through in one batch, padded on the right: under the causal mask no token sees
            what comes after it.

    Returns:
        Logits [T, vocabulary], on the CPU, for each sequence.

    Raises:
        ValueError: the folder lacks a weight of transformers' model, or has it in another shape; names the tensor.
    """
    config = AutoConfig.from_pretrained(hf_folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(config)  # computed from the config and in no file
    parts = [(part, part) for part in (body.embed_tokens, *body.layers, body.norm, model.lm_head)]
    tokens = pad_sequence([torch.tensor(ids) for ids in token_ids], batch_first=True)
    with HfFolder(hf_folder) as files:
        files.check({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, lambda name: True)
        lend_weights(model, parts, lambda names: {name: files.tensor(name, torch.float32) for name in names})
        logits = model(tokens, use_cache=False).logits
    return [row[: len(ids)] for row, ids in zip(logits, token_ids, strict=True)]


def compare_logits(
    actual: Sequence[Tensor], hf_folder: str | Path, token_ids: list[list[int]], tolerance: float
) -> float:
    """Compares logits with those that transformers computes from a folder in float32.

    Args:
        actual: [T, vocabulary] for each sequence.
        hf_folder: the model to check.
        token_ids: the sequences.
        tolerance: the largest absolute difference allowed.

    Returns:
        The largest absolute difference.

    Raises:
        ConversionError: it exceeds the tolerance, or a logit is not a number.
    """
    expected = transformers_logits(hf_folder, token_ids)
    return _judge(zip(actual, expected, strict=True), "logits", hf_folder, tolerance)


def compare_logprobs(
    policy: MegatronPolicy, hf_folder: str | Path, token_ids: list[list[int]], tolerance: float
) -> float:
    """Compares a policy's log-probabilities, in any layout, with transformers'. Collective.

    Args:
        policy: in float32 for a tolerance below 1e-2.
        hf_folder: the model that the policy should be.
        token_ids: the sequences, two tokens or more each.
        tolerance: the largest absolute difference allowed.

    Returns:
        The largest absolute difference, on every rank.

    Raises:
        ConversionError: it exceeds the tolerance, or a value is not a number; on every rank.
    """
    batches = pack([TrainSequence(ids[:1], ids[1:]) for ids in token_ids], sum(map(len, token_ids)) + 128)
    actual = policy.logprobs(batches, 1.0)
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        pairs = (
            (values, _transformers_logprobs(hf_folder, batch)) for values, batch in zip(actual, batches, strict=True)
        )
        try:
            outcome[0] = _judge(pairs, "log-probabilities", hf_folder, tolerance)
        except ConversionError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise ConversionError(outcome[1])
    return outcome[0]


def _transformers_logprobs(hf_folder: str | Path, batch: PackedBatch) -> Tensor:
    """transformers' log-probabilities [T] of the targets under the mask, 0 elsewhere."""
    values = torch.zeros(len(batch.tokens))
    places = [(batch.sequence == index).nonzero().squeeze(1) for index in range(int(batch.sequence.max()) + 1)]
    logits = transformers_logits(hf_folder, [batch.tokens[here].tolist() for here in places])
    for here, of_sequence in zip(places, logits, strict=True):
        values[here] = of_sequence.log_softmax(-1).gather(1, batch.targets[here, None]).squeeze(1)
    return values * batch.mask


def _judge(pairs: Iterator[tuple[Tensor, Tensor]], what: str, hf_folder: str | Path, tolerance: float) -> float:
    largest = 0.0
    for actual, expected in pairs:
        assert actual.shape == expected.shape, f"{tuple(actual.shape)} and {tuple(expected.shape)}"
        difference = (actual - expected).abs().max().item()
        if not difference <= tolerance:  # also where it is not a number
            raise ConversionError(
                f"{hf_folder}: {what} of Megatron and of transformers differ by {difference:.3g}, more than the "
                f"{tolerance:.3g} allowed (export.max_logit_difference): the conversion is wrong"
            )
        largest = max(largest, difference)
    return largest
