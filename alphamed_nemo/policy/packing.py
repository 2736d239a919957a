"""Sequences into packed micro-batches: many sequences one after another in one row of tokens (THD layout).

A sequence's last token is a target only: nothing is predicted from it, so it is not in the row.

The samples of one prompt can share it: its tokens but the last lie in the row once, as a segment of their own, and each
sample's segment, the prompt's last token and the response, continues that one. What a token sees is the same, so log-
probabilities and gradients are, and the prompt is computed once for the group instead of once a sample.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, groupby

import torch
from torch import Tensor

# Packs are cut to a multiple of this many tokens, which suits matrix kernels and any tensor-parallel split of them.
# Micro-batches are nearly full, so a run meets few lengths: 1 to 11 in 160 updates of the size presets
# (benchmarks/results/2026-11-27-packing.md).
_LENGTH_MULTIPLE = 128


@dataclass
class TrainSequence:
    """One prompt with one response.

    Attributes:
        prompt_ids: token ids, at least one.
        response_ids: token ids; the loss sees these and no others.
        advantage: of the whole response, or one for each response token. For a plain weighted likelihood these are
            the token weights.
        rollout_logprobs: the rollout engine's log-probability of each response token; empty: 0 for all.

    The three sequences are lists, or arrays as rollouts are.
    """

    prompt_ids: list[int] | array[int]
    response_ids: list[int] | array[int]
    advantage: float | list[float] = 0.0
    rollout_logprobs: list[float] | array[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


Family = list[TrainSequence]  # sequences that share their prompt's tokens in the row; one alone shares nothing


@dataclass
class Division:
    """A mini-batch as it is divided among data-parallel ranks.

    Attributes:
        packs: of each data-parallel rank, the families in each of its micro-batches; equally many for each rank, and
            some may be empty.
        length: tokens in the row of every micro-batch, padding included.
    """

    packs: list[list[list[Family]]]
    length: int


@dataclass
class PackedBatch:
    """A micro-batch: sequences in a row of T tokens, then padding.

    "Aligned with targets" means: entry t belongs to the prediction of `targets[t]`, the token after position t.

    Attributes:
        tokens: int64 [T].
        positions: int64 [T], counted from 0 in each sequence.
        targets: int64 [T], the next token of the same sequence; 0 where there is none.
        mask: bool [T], True where the target is a response token.
        sequence: int64 [T], index of the sequence in this pack; −1 for padding and for tokens that samples share.
        advantages, rollout_logprobs: float32 [T], aligned with targets; 0 outside the mask.
        cu_seqlens: int32 [S + 1], where segments begin and end; covers all T tokens, padding being one more segment. A
            segment is a sequence, or a part of one where samples share their prompt.
        max_seqlen: length of the longest sequence in the row, padding included.
        continues: int64 [S], for each segment the one that it continues, −1 where it begins a sequence; None: all do.
        old_logprobs, ref_logprobs: float32 [T], aligned with targets, where they have been computed.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    mask: Tensor
    sequence: Tensor
    advantages: Tensor
    rollout_logprobs: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    continues: Tensor | None = None
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on `device`."""
        moved = {
            part.name: getattr(self, part.name).to(device, non_blocking=True)
            for part in fields(self)
            if isinstance(getattr(self, part.name), Tensor)
        }
        return replace(self, **moved)


def pack(
    sequences: Sequence[TrainSequence],
    tokens_per_microbatch: int,
    data_rank: int = 0,
    data_size: int = 1,
    share_prompts: bool = False,
) -> list[PackedBatch]:
    """Packs sequences into as few micro-batches as fit, with about the same number of tokens in each.

    All micro-batches, on all data-parallel ranks, have one length: pipeline messages then have one shape. That is the
    length of the fullest rounded up, and at most `tokens_per_microbatch`. The result depends on the arguments alone,
    so every rank computes the same division of the same sequences.

    Args:
        sequences: of the whole mini-batch, the same on every rank.
        tokens_per_microbatch: the most tokens in a micro-batch.
        data_rank, data_size: which data-parallel rank's share to return.
        share_prompts: neighbours with one prompt share its tokens. For the local layers only: Transformer Engine's
            attention knows no segments that continue others.

    Returns:
        This rank's micro-batches, equally many on each rank; some may be padding alone.

    Raises:
        ValueError: a sequence that does not fit into a micro-batch or is not usable; nothing to pack.
    """
    division = share_out(sequences, tokens_per_microbatch, data_size, share_prompts)
    return [lay_out(families, division.length) for families in division.packs[data_rank]]


def share_out(
    sequences: Sequence[TrainSequence], tokens_per_microbatch: int, data_size: int = 1, share_prompts: bool = False
) -> Division:
    """What `pack` lays out on every data-parallel rank. See there for arguments and errors."""
    if not sequences:
        raise ValueError("no sequences to pack")
    for index, sequence in enumerate(sequences):
        _check(index, sequence, tokens_per_microbatch)
    units = _families(sequences, tokens_per_microbatch) if share_prompts else [[sequence] for sequence in sequences]
    sizes = [_family_size(unit) for unit in units]
    bins = divide(sizes, tokens_per_microbatch, data_size)
    fullest = max(sum(sizes[i] for i in members) for members in bins)
    length = min(tokens_per_microbatch, math.ceil(fullest / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE)
    packs = [[units[i] for i in members] for members in bins]
    return Division([packs[rank::data_size] for rank in range(data_size)], length)


def empty_like(batch: PackedBatch) -> PackedBatch:
    """A micro-batch of padding alone, of the same length."""
    empty = lay_out([], len(batch.tokens)).to(batch.tokens.device)
    for name in ("old_logprobs", "ref_logprobs"):
        if getattr(batch, name) is not None:
            setattr(empty, name, torch.zeros_like(empty.advantages))
    return empty


def _check(index: int, sequence: TrainSequence, limit: int) -> None:
    if not sequence.prompt_ids:
        raise ValueError(f"sequence {index} has no prompt tokens; the first response token needs one before it")
    if len(sequence) > limit:
        raise ValueError(
            f"sequence {index} has {len(sequence.prompt_ids)} prompt + {len(sequence.response_ids)} response tokens, "
            f"more than grpo.tokens_per_microbatch={limit}: raise that, or shorten model.max_length"
        )
    for name in ("advantage", "rollout_logprobs"):
        values = getattr(sequence, name)
        if isinstance(values, list | array) and len(values) not in {len(sequence.response_ids)} | (
            {0} if name == "rollout_logprobs" else set()
        ):
            raise ValueError(
                f"sequence {index} has {len(values)} values of {name} for {len(sequence.response_ids)} response tokens"
            )


def divide(lengths: list[int], limit: int, data_size: int) -> list[list[int]]:
    """Indices of sequences for each micro-batch; the number of micro-batches is a multiple of `data_size`.

    Balanced by tokens, not by operations: padding makes all rows equally long, so that only attention differs. What
    that costs was counted for 1,024 sequences of 8B and 70B models: the slowest of 32 data-parallel ranks has 0.03%
    more than the mean to compute with the lengths of the size presets, and 2.2% with sequences of up to 32,768 tokens,
    which is 0.4% of such a step, since sampling takes most of it (benchmarks/results/2026-11-27-packing.md).
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    fewest = math.ceil(sum(lengths) / limit)
    for bins in range(math.ceil(fewest / data_size) * data_size, len(lengths) + data_size, data_size):
        divided = _balanced(longest_first, lengths, limit, bins)
        if divided is not None:
            return divided
    raise AssertionError("one sequence a micro-batch always fits")


def _balanced(longest_first: list[int], lengths: list[int], limit: int, bins: int) -> list[list[int]] | None:
    """Each sequence, longest first, goes to the emptiest micro-batch; None where that overfills one."""
    heap = [(0, index) for index in range(bins)]
    members: list[list[int]] = [[] for _ in range(bins)]
    for i in longest_first:
        filled, index = heapq.heappop(heap)
        if filled + lengths[i] > limit:
            return None
        members[index].append(i)
        heapq.heappush(heap, (filled + lengths[i], index))
    return members


def _families(sequences: Sequence[TrainSequence], limit: int) -> list[Family]:
    """Neighbours with one prompt, as many together as fit into a micro-batch."""
    families: list[Family] = []
    for _, members in groupby(sequences, key=lambda sequence: sequence.prompt_ids):
        family: Family = []
        for member in members:
            if family and _family_size([*family, member]) > limit:
                families.append(family)
                family = []
            family.append(member)
        families.append(family)
    return families


def _family_size(family: Family) -> int:
    """Tokens in the row of sequences that share their prompt."""
    shared = _shared_tokens(family)
    return shared + sum(max(1, len(member) - shared - 1) for member in family)


def _shared_tokens(family: Family) -> int:
    """Of the prompt: all but its last, from which the responses are predicted."""
    return len(family[0].prompt_ids) - 1 if len(family) > 1 else 0


@dataclass
class _Segment:
    """Tokens that lie together: a sequence, the part of a prompt that samples share, or a sample's own part.

    Attributes:
        ids: token ids.
        targets: the token after each of them; empty for a shared part, and where there is none.
        first: position of the first of them in its sequence.
        sequence: index of the sequence, −1 for a shared part.
        continues: index of the segment that this one continues, −1 for none.
    """

    ids: Sequence[int]
    targets: Sequence[int] = ()
    first: int = 0
    sequence: int = -1
    continues: int = -1


def _segments(families: list[Family]) -> list[_Segment]:
    segments: list[_Segment] = []
    count = 0
    for family in families:
        prompt, shared = family[0].prompt_ids, _shared_tokens(family)
        parent = -1
        if shared:
            parent = len(segments)
            segments.append(_Segment(prompt[:-1]))
        for member in family:
            own = [*prompt[shared:], *member.response_ids]
            segments.append(_Segment(own[:-1] or own, own[1:], shared, count, parent))
            count += 1
    return segments


def lay_out(families: list[Family], length: int) -> PackedBatch:
    """One micro-batch of `length` tokens; the members of a family share their prompt."""
    sequences, segments = list(chain.from_iterable(families)), _segments(families)
    sizes = torch.tensor([len(segment.ids) for segment in segments], dtype=torch.int64)
    prompts = torch.tensor([len(s.prompt_ids) for s in sequences], dtype=torch.int64)
    used = int(sizes.sum())
    ends = sizes.cumsum(0)
    shift = torch.tensor([segment.first for segment in segments], dtype=torch.int64) - (ends - sizes)
    owner = torch.tensor([segment.sequence for segment in segments], dtype=torch.int64)
    segment_of = torch.repeat_interleave(torch.arange(len(segments)), sizes)

    tokens = torch.zeros(length, dtype=torch.int64)
    tokens[:used] = torch.tensor(list(chain.from_iterable(segment.ids for segment in segments)))
    sequence = torch.full((length,), -1, dtype=torch.int64)
    sequence[:used] = owner[segment_of]
    positions = torch.arange(length)
    positions[:used] += shift[segment_of]
    positions[used:] -= used

    has_target = torch.zeros(length, dtype=torch.bool)
    has_target[:used] = torch.tensor([bool(segment.targets) for segment in segments], dtype=torch.bool)[segment_of]
    targets = torch.zeros(length, dtype=torch.int64)
    targets[has_target] = torch.tensor(
        list(chain.from_iterable(segment.targets for segment in segments)), dtype=torch.int64
    )
    mask = has_target.clone()
    mask[has_target] &= positions[has_target] >= prompts[sequence[has_target]] - 1

    # Response tokens in the order of the pack are exactly the targets under the mask.
    advantages, rollout_logprobs = torch.zeros(length), torch.zeros(length)
    advantages[mask] = torch.tensor(list(chain.from_iterable(map(_advantages, sequences))))
    rollout_logprobs[mask] = torch.tensor(
        list(chain.from_iterable(s.rollout_logprobs or [0.0] * len(s.response_ids) for s in sequences))
    )
    bounds = [0, *ends.tolist()] + ([length] if used < length else [])
    continues = [segment.continues for segment in segments] + ([-1] if used < length else [])
    return PackedBatch(
        tokens=tokens,
        positions=positions,
        targets=targets,
        mask=mask,
        sequence=sequence,
        advantages=advantages,
        rollout_logprobs=rollout_logprobs,
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        max_seqlen=int(positions.max()) + 1,
        continues=torch.tensor(continues) if max(continues) >= 0 else None,
    )


def _advantages(sequence: TrainSequence) -> list[float]:
    if isinstance(sequence.advantage, list):
        return sequence.advantage
    return [sequence.advantage] * len(sequence.response_ids)
