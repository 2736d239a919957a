"""Forward and backward passes of packed micro-batches through Megatron's pipeline schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from alphamed_nemo.policy.groups import joined
from alphamed_nemo.policy.local.attention import SegmentParams
from alphamed_nemo.policy.local.heap import HEAP
from alphamed_nemo.policy.logprobs import token_logprobs
from alphamed_nemo.policy.packing import PackedBatch, empty_like
from alphamed_nemo.policy.rotary import RotaryParams

LossFn = Callable[[Tensor, Tensor | None, PackedBatch], tuple[Tensor, dict[str, Tensor]]]


def forward_backward(
    chunks: Sequence[MegatronModule],
    batches: Sequence[PackedBatch],
    loss_fn: LossFn,
    vocab_size: int,
    temperature: float,
) -> dict[str, float]:
    """Gradients of the sum of all micro-batches' and data-parallel ranks' losses, into the chunks' buffers.

    Args:
        chunks: wrapped by Megatron's DistributedDataParallel.
        batches: this data-parallel rank's, all of one length, on this rank's device.
        loss_fn: see `MegatronPolicy.train_step`.
        vocab_size, temperature: see `token_logprobs`.

    Returns:
        Metrics reduced over micro-batches and data-parallel ranks (maximum for names ending in "_max", minimum for
        "_min", else sum), with the loss as "loss"; the same on every rank.
    """
    for chunk in chunks:
        assert isinstance(chunk, DistributedDataParallel)
        chunk.config.finalize_model_grads_func = _finalize
        chunk.zero_grad_buffer()

    def finish(batch: PackedBatch, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss, metrics = loss_fn(*_logprobs(logits, batch, vocab_size, temperature), batch)
        HEAP.note()
        # Three values and `calculate_per_token_loss` (see model.py) make the schedule take the loss as it is. The
        # number of tokens, by which Megatron would divide the gradients, is not used: see `_finalize`.
        return loss, torch.zeros((), dtype=torch.int, device=loss.device), metrics | {"loss": loss.detach().clone()}

    return _reduce_metrics(_run(chunks, batches, finish, forward_only=False))


@torch.no_grad()
def forward_logprobs(
    chunks: Sequence[MegatronModule], batches: Sequence[PackedBatch], vocab_size: int, temperature: float
) -> list[Tensor]:
    """Log-probabilities of the targets under the mask, 0 elsewhere: float32 [T] for each batch, on every rank."""

    def finish(batch: PackedBatch, logits: Tensor, non_loss_data: bool) -> Tensor:
        return _logprobs(logits, batch, vocab_size, temperature)[0]

    found = _run(chunks, batches, finish, forward_only=True)
    shape = (len(batches), len(batches[0].tokens))
    values = torch.stack(found)[: len(batches)] if found else torch.empty(shape, device=batches[0].tokens.device)
    _from_last_stage(values)
    return list(values)


def _run(
    chunks: Sequence[MegatronModule], batches: Sequence[PackedBatch], finish: Callable[..., Any], forward_only: bool
) -> list[Any]:
    """Runs the schedule; returns what `finish` gave for each micro-batch, on the last stage (elsewhere nothing)."""
    lengths = {len(batch.tokens) for batch in batches}
    if len(lengths) != 1:
        raise ValueError(f"micro-batches of lengths {sorted(lengths)}; pipeline messages need one length")
    (length,) = lengths
    config = chunks[0].config
    if config.sequence_parallel and length % config.tensor_model_parallel_size:
        raise ValueError(
            f"micro-batches of {length} tokens do not divide over {config.tensor_model_parallel_size} tensor ranks, as "
            "parallel.sequence=true asks: choose grpo.tokens_per_microbatch as a multiple of parallel.tensor"
        )
    if len(chunks) > 1:  # the interleaved schedule takes micro-batches in rounds, one for each stage
        missing = -len(batches) % parallel_state.get_pipeline_model_parallel_world_size()
        batches = [*batches, *(empty_like(batches[0]) for _ in range(missing))]

    def forward_step(iterator: Iterator[PackedBatch], chunk: MegatronModule) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(iterator)
        logits = chunk(
            input_ids=batch.tokens[None],
            position_ids=batch.positions[None],
            attention_mask=None,
            packed_seq_params=_packed_params(batch, chunk.config),
            rows=batch.mask.nonzero().squeeze(1),
        )
        return logits, partial(finish, batch)

    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(batches) for _ in chunks] if len(chunks) > 1 else iter(batches),
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=len(batches),
        seq_length=length,
        micro_batch_size=1,
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
    )


def _packed_params(batch: PackedBatch, config: TransformerConfig) -> PackedSeqParams:
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    if config.transformer_impl == "local":
        return SegmentParams.of(bounds, longest, continues=batch.continues)
    if config.apply_rope_fusion:
        return PackedSeqParams("thd", bounds, bounds, max_seqlen_q=longest, max_seqlen_kv=longest)
    return RotaryParams.of(bounds, longest)


def _logprobs(logits: Tensor, batch: PackedBatch, vocab_size: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [T], 0 outside the mask, from the logits [1, N, V_part] under it."""
    group = joined(parallel_state.get_tensor_model_parallel_group())
    rows = batch.mask.nonzero().squeeze(1)
    logprobs, entropy = token_logprobs(
        logits.squeeze(0), batch.targets[rows], vocab_size, temperature, group, overwrite=True
    )
    zeros = logprobs.new_zeros(len(batch.mask))
    return zeros.index_copy(0, rows, logprobs), zeros.index_copy(0, rows, entropy)


def _finalize(model: list[torch.nn.Module], num_tokens: Tensor | None, **kwargs: Any) -> None:
    """Sums gradients over ranks. Loss functions carry their own global counts, so nothing is divided by tokens."""
    finalize_model_grads(model, None, **kwargs)


def _reduce_metrics(found: list[dict[str, Tensor]]) -> dict[str, float]:
    """Over micro-batches and data-parallel ranks on the last stage, then to the other stages."""
    reduced: list[dict[str, float] | None] = [None]
    if found:
        kinds = {"_max": (torch.amax, dist.ReduceOp.MAX), "_min": (torch.amin, dist.ReduceOp.MIN)}
        values: dict[str, float] = {}
        for suffix in ("_max", "_min", ""):
            over_microbatches, over_ranks = kinds.get(suffix, (torch.sum, dist.ReduceOp.SUM))
            names = [name for name in found[0] if (name[-4:] if name[-4:] in kinds else "") == suffix]
            if not names:
                continue
            table = torch.stack([torch.stack([metrics[name].double() for name in names]) for metrics in found])
            row = over_microbatches(table, dim=0)
            dist.all_reduce(
                row, op=over_ranks, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
            )
            values |= dict(zip(names, row.tolist(), strict=True))
        reduced = [values]
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast_object_list(reduced, src=last, group=joined(parallel_state.get_pipeline_model_parallel_group()))
    assert reduced[0] is not None
    return reduced[0]


def _from_last_stage(values: Tensor) -> None:
    """Gives every pipeline stage the last one's values, in place."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(values, src=last, group=joined(parallel_state.get_pipeline_model_parallel_group()))
