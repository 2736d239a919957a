import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from alphamed_nemo.policy.local.attention import PackedAttention, SegmentParams

HEADS, KV_HEADS, DIM = 4, 2, 8


@pytest.fixture
def config() -> TransformerConfig:
    return TransformerConfig(
        num_layers=1, hidden_size=HEADS * DIM, num_attention_heads=HEADS, num_query_groups=KV_HEADS
    )


def packed(lengths: list[int]) -> SegmentParams:
    """Without rotary embedding: all angles are 0."""
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    params = SegmentParams.of(bounds, max(lengths))
    params.cos, params.sin = torch.ones(sum(lengths), 1, DIM // 2), torch.zeros(sum(lengths), 1, DIM // 2)
    return params


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention written out, float64, one token at a time."""
    out = torch.zeros(len(query), HEADS, DIM, dtype=torch.float64)
    rows = []
    start = 0
    for length in lengths:
        for t in range(start, start + length):
            for head in range(HEADS):
                kv = head // (HEADS // KV_HEADS)
                weights = torch.softmax(key[start : t + 1, kv] @ query[t, head] / DIM**0.5, dim=0)
                rows.append(weights @ value[start : t + 1, kv])
        start += length
    return torch.stack(rows).view_as(out)


@pytest.mark.parametrize(
    "lengths", [[1], [16, 16, 16], [5, 1, 40, 17, 16, 3], [163, 2, 2, 2, 64]], ids=["one", "equal", "mixed", "long"]
)
def test_attention_and_its_gradient_equal_a_plain_float64_loop(config, lengths):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    inputs = [torch.randn(tokens, heads, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    weights = torch.randn(tokens, HEADS * DIM, generator=generator)

    leaves = [x.clone().requires_grad_() for x in inputs]
    out = PackedAttention(config, layer_number=1)(*leaves, None, packed_seq_params=packed(lengths))
    (out * weights).sum().backward()

    exact = [x.double().requires_grad_() for x in inputs]
    expected = naive(*exact, lengths).flatten(1)
    (expected * weights.double()).sum().backward()

    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
    for found, wanted in zip(leaves, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=0, atol=1e-5)


def test_output_keeps_the_dtype(config):
    inputs = [torch.randn(10, heads, DIM).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS)]
    out = PackedAttention(config, layer_number=1)(*inputs, None, packed_seq_params=packed([4, 6]))
    assert out.dtype == torch.bfloat16


def test_sequences_do_not_see_each_other(config):
    attention = PackedAttention(config, layer_number=1)
    inputs = [torch.randn(30, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    before = attention(*inputs, None, packed_seq_params=packed([10, 20]))
    changed = [torch.cat([torch.randn_like(x[:10]), x[10:]]) for x in inputs]
    after = attention(*changed, None, packed_seq_params=packed([10, 20]))
    assert torch.equal(before[10:], after[10:])
    assert not torch.equal(before[:10], after[:10])
