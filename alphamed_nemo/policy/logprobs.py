"""Log-probabilities and entropies where each tensor-parallel rank holds a part of the vocabulary.

One definition for the whole project: the log-probability of a token is log-softmax(logits / temperature) over the real
vocabulary, in float32, before any top-p. It is what the rollout engine reports as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def token_logprobs(
    logits: Tensor,
    targets: Tensor,
    vocab_size: int,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, both differentiable.

    Args:
        logits: [N, V_part], any float dtype; rank r of the group holds ids r·V_part to (r + 1)·V_part − 1.
        targets: int64 [N], below `vocab_size`; the same on all ranks of the group.
        vocab_size: real size; ids from there on are padding and have probability 0.
        temperature: divides the logits; above 0.
        group: the tensor-parallel group; None: the logits hold the whole vocabulary.
        overwrite: the backward pass puts the gradient in the place of the logits, which nothing else reads: they are
            the largest tensor of a step. A second backward pass through the same graph is then torch's error.

    Returns:
        (log-probabilities, entropies in nats), float32 [N], equal on all ranks of the group.
    """
    return _VocabParallelLogprobs.apply(logits, targets, vocab_size, temperature, group, overwrite)


# Values of one block of rows, in float32. On CPU a block and what is computed from it stay in the cache.
_BLOCK_VALUES = {"cpu": 2**19, "cuda": 2**27}


class _VocabParallelLogprobs(torch.autograd.Function):
    """With p = softmax(z): ∂logp_y/∂z = 1_y − p, and ∂H/∂z = −p (log p + H).

    Works on blocks of rows and keeps no p: the backward pass computes it again from the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        vocab_size: int,
        temperature: float,
        group: dist.ProcessGroup | None,
        overwrite: bool,
    ) -> tuple[Tensor, Tensor]:
        parallel = group is not None and dist.get_world_size(group) > 1
        part = logits.shape[-1]
        first = part * dist.get_rank(group) if parallel else 0
        real = max(0, min(part, vocab_size - first))  # columns of this rank that are not padding

        largest = logits.new_full(logits.shape[:1], -torch.inf, dtype=torch.float32)
        if real:
            largest = logits[:, :real].amax(dim=-1).float() / temperature
        if parallel:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)

        here = (targets >= first) & (targets < first + real)
        column = torch.where(here, targets - first, 0)
        sums = largest.new_zeros(3, len(logits))  # Σ exp z, the target's z, Σ z·exp z
        for rows in _blocks(logits) if real else ():
            z = _scaled(logits[rows, :real], temperature).sub_(largest[rows, None])
            sums[1, rows] = torch.where(here[rows], z.gather(1, column[rows, None]).squeeze(1), 0.0)
            p = z.exp()
            sums[0, rows] = p.sum(dim=-1)
            sums[2, rows] = z.mul_(p).sum(dim=-1)
        if parallel:
            dist.all_reduce(sums, group=group)
        total, of_target, weighted = sums
        log_total = total.log()
        entropy = log_total - weighted / total

        ctx.save_for_backward(logits, column, here, largest + log_total, entropy)
        ctx.temperature, ctx.real, ctx.overwrite = temperature, real, overwrite
        ctx.set_materialize_grads(False)
        return of_target - log_total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of_logprob, of_entropy = grads
        logits, column, here, log_sum, entropy = ctx.saved_tensors
        of_logprob = torch.zeros_like(log_sum) if of_logprob is None else of_logprob / ctx.temperature
        of_target = of_logprob * here
        # Each block is copied before its gradient is written.
        grad = logits if ctx.overwrite else torch.empty_like(logits)
        grad[:, ctx.real :] = 0.0
        for rows in _blocks(logits) if ctx.real else ():
            log_p = _scaled(logits[rows, : ctx.real], ctx.temperature).sub_(log_sum[rows, None])
            p = log_p.exp()
            of_logits = p * -of_logprob[rows, None]
            if of_entropy is not None:
                weight = of_entropy[rows, None] / ctx.temperature
                of_logits -= log_p.add_(entropy[rows, None]).mul_(p).mul_(weight)
            of_logits.scatter_add_(1, column[rows, None], of_target[rows, None])
            grad[rows, : ctx.real] = of_logits
        return grad, None, None, None, None, None


def _blocks(logits: Tensor) -> list[slice]:
    rows = max(1, _BLOCK_VALUES[logits.device.type] // logits.shape[-1])
    return [slice(first, first + rows) for first in range(0, len(logits), rows)]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature in float32, in memory of its own."""
    scaled = logits.to(torch.float32, copy=True)
    return scaled if temperature == 1.0 else scaled.div_(temperature)
