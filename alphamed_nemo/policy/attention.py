"""Attention over packed sequences, and the norm, for Megatron's local layer spec (no Transformer Engine).

Segments of a pack are attended to in groups of about equal length, each group padded on the right to one length and
given to one `scaled_dot_product_attention` call. That is exact: under the causal mask a real query never sees the
padding that comes after it. On CPU it is two to four times faster than one call for each short sequence. Where samples
share their prompt, a sample's segment sees the keys of the shared part before its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

# Segments share a call when their lengths round up to the same multiple of this: little padding, few calls.
_LENGTH_STEP = 16


@dataclass
class SharedPromptParams(PackedSeqParams):
    """A pack in which segments may continue others (`policy/packing.py`).

    To Megatron it is one sequence: then the rotary embedding takes the angles of T tokens as they are, instead of
    counting positions from 0 in each segment.

    Attributes:
        bounds: int32 [S + 1], where segments begin and end.
        continues: int64 [S], for each segment the one that it continues, −1 for none.
    """

    bounds: Tensor | None = None
    continues: Tensor | None = None

    @classmethod
    def of(cls, bounds: Tensor, continues: Tensor, max_seqlen: int) -> SharedPromptParams:
        whole = bounds[[0, -1]]
        return cls(
            "thd", whole, whole, max_seqlen_q=max_seqlen, max_seqlen_kv=max_seqlen, bounds=bounds, continues=continues
        )


@dataclass
class _Group:
    """Segments whose queries are computed in one call: `count` of them, padded to one length.

    Attributes:
        queries: int64 [count, length], the token at each place; places beyond a segment's end repeat its last.
        keys: int64 [count, shared + length], the same for its keys, those of the shared part first.
        mask: bool [count, 1, length, shared + length], what each query sees; None: the causal mask.
        kept: int64, places of `queries` that are real.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    kept: Tensor


class PackedAttention(MegatronModule):
    """`core_attention` of the local spec: causal self-attention within each sequence of `cu_seqlens`."""

    def __init__(self, config: TransformerConfig, layer_number: int, *_args: object, **kwargs: object) -> None:
        super().__init__(config=config)
        self.scale = kwargs.get("softmax_scale")  # None: 1 / sqrt(head dimension)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: object = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Causal attention with grouped key-value heads.

        Args:
            query: [T, heads, head dimension].
            key, value: [T, key-value heads, head dimension].
            attention_mask, attn_mask_type, attention_bias: unused, part of Megatron's interface.
            packed_seq_params: `cu_seqlens_q` [S + 1] covers all T tokens.

        Returns:
            [T, heads × head dimension], in the query's dtype.
        """
        assert packed_seq_params is not None, "PackedAttention takes packed sequences only"
        dtype = query.dtype
        if query.device.type == "cpu":
            # torch's CPU kernel takes half the time in float32 that it takes in bfloat16, forward and backward.
            query, key, value = query.float(), key.float(), value.float()
        attended = []
        groups, order = _groups(packed_seq_params)
        for group in groups:
            q, k, v = (
                x.index_select(0, places.view(-1)).view(*places.shape, *x.shape[1:]).transpose(1, 2)
                for x, places in ((query, group.queries), (key, group.keys), (value, group.keys))
            )
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=group.mask, is_causal=group.mask is None, scale=self.scale, enable_gqa=True
            )
            attended.append(out.transpose(1, 2).flatten(0, 1).flatten(1).index_select(0, group.kept))
        return torch.cat(attended).index_select(0, order).to(dtype)


def _groups(packed: PackedSeqParams) -> tuple[list[_Group], Tensor]:
    """How to gather the segments of a pack into padded groups and to put the results back.

    Computed once for a pack and kept on it, since every layer asks.

    Returns:
        The groups, and `order` [T]: for each token its row in the concatenation of all groups' kept places.
    """
    cached = getattr(packed, "_groups", None)
    if cached is not None:
        return cached
    shares = isinstance(packed, SharedPromptParams)
    device = packed.cu_seqlens_q.device
    bounds = (packed.bounds if shares else packed.cu_seqlens_q).cpu().long()
    starts, lengths = bounds[:-1], bounds.diff()
    parents = packed.continues.cpu() if shares else torch.full_like(starts, -1)
    shared = torch.where(parents >= 0, lengths[parents], 0)  # tokens that a segment continues
    kinds = torch.stack([_rounded(lengths), _rounded(shared)], dim=1)
    groups, tokens = [], []
    for kind in kinds.unique(dim=0):
        length, before = kind.tolist()
        if length == 0:
            continue
        members = (kinds == kind).all(dim=1)
        place = torch.arange(length)
        start, size = starts[members, None], lengths[members, None]
        queries = start + torch.minimum(place, size - 1)
        real = place < size
        keys, mask = queries, None
        if before:
            place_before, size_before = torch.arange(before), shared[members, None]
            keys = torch.cat(
                [starts[parents[members], None] + torch.minimum(place_before, size_before - 1), queries], dim=1
            )
            seen_before = (place_before < size_before)[:, None, None, :].expand(-1, 1, length, before)
            seen = (place[None, :] <= place[:, None]).expand(len(queries), 1, length, length)
            mask = torch.cat([seen_before, seen], dim=-1).to(device)
        groups.append(_Group(queries.to(device), keys.to(device), mask, real.flatten().nonzero().squeeze(1).to(device)))
        tokens.append(queries[real])
    packed._groups = groups, torch.argsort(torch.cat(tokens)).to(device)
    return packed._groups


def _rounded(lengths: Tensor) -> Tensor:
    return (lengths + _LENGTH_STEP - 1) // _LENGTH_STEP * _LENGTH_STEP


class PackedRMSNorm(torch.nn.Module):
    """RMSNorm that can sit inside a sequence-parallel region, which Megatron's local norm refuses.

    Its weight [hidden] is marked, so that Megatron sums the gradients over the tensor group, each of whose ranks
    normalises its own part of the tokens.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_unused: object) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] → the same shape and dtype; the mean square is taken in float32."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
