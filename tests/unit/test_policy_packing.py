import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, divide, empty_like, pack, share_out


def make(prompt: int, response: int, base: int = 1) -> TrainSequence:
    """Distinct tokens, so that a misplaced one is seen."""
    tokens = list(range(base, base + prompt + response))
    return TrainSequence(
        tokens[:prompt], tokens[prompt:], advantage=float(base), rollout_logprobs=[-float(t) for t in tokens[prompt:]]
    )


sizes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=30)


def sequences_of(shapes: list[tuple[int, int]]) -> list[TrainSequence]:
    return [make(prompt, response, base=1 + 100 * i) for i, (prompt, response) in enumerate(shapes)]


def shares(sequences: list[TrainSequence], limit: int, ranks: int) -> list[list[PackedBatch]]:
    return [pack(sequences, limit, rank, ranks) for rank in range(ranks)]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(24, 200), st.integers(1, 3))
def test_every_token_but_the_last_is_packed_exactly_once(shapes, limit, ranks):
    sequences = sequences_of(shapes)
    packed = [
        batch.tokens[batch.sequence >= 0].tolist()
        for share in shares(sequences, limit, ranks)
        for batch in share
        if (batch.sequence >= 0).any()
    ]
    whole = [s.prompt_ids + s.response_ids for s in sequences]
    expected = [token for ids in whole for token in ids[:-1] or ids]
    assert sorted(token for tokens in packed for token in tokens) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(24, 200), st.integers(1, 3))
def test_one_length_within_the_budget_and_equally_many_on_each_rank(shapes, limit, ranks):
    all_shares = shares(sequences_of(shapes), limit, ranks)
    assert len({len(share) for share in all_shares}) == 1
    lengths = {len(batch.tokens) for share in all_shares for batch in share}
    assert len(lengths) == 1
    assert lengths.pop() <= limit


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(24, 200))
def test_targets_are_the_next_tokens_and_the_mask_covers_the_responses(shapes, limit):
    sequences = sequences_of(shapes)
    by_first = {s.prompt_ids[0]: s for s in sequences}
    for batch in pack(sequences, limit):
        bounds = batch.cu_seqlens.tolist()
        assert bounds[0] == 0 and bounds[-1] == len(batch.tokens)
        assert batch.max_seqlen == max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
        for index, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            part = slice(start, end)
            assert batch.positions[part].tolist() == list(range(end - start))
            if batch.sequence[start] == -1:
                assert not batch.mask[part].any()
                continue
            assert batch.sequence[part].tolist() == [index] * (end - start)
            sequence = by_first[int(batch.tokens[start])]
            tokens = sequence.prompt_ids + sequence.response_ids
            assert batch.targets[part].tolist() == (tokens[1:] or [0])
            assert batch.targets[part][batch.mask[part]].tolist() == sequence.response_ids
            assert batch.rollout_logprobs[part][batch.mask[part]].tolist() == sequence.rollout_logprobs
            assert set(batch.advantages[part][batch.mask[part]].tolist()) <= {sequence.advantage}
        assert batch.advantages[~batch.mask].eq(0).all()


def groups_of(shapes: list[tuple[int, int]], samples: int) -> list[TrainSequence]:
    """`samples` responses, of other lengths and tokens, to each prompt."""
    sequences = []
    for i, (prompt, response) in enumerate(shapes):
        ids = list(range(1 + 1000 * i, 1 + 1000 * i + prompt))
        for sample in range(samples):
            first = 500 + 1000 * i + 50 * sample
            sequences.append(TrainSequence(ids, list(range(first, first + max(0, response - sample))), float(first)))
    return sequences


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 5), st.integers(24, 200), st.integers(1, 3))
def test_shared_prompts_lie_in_the_pack_once_and_every_sample_continues_its_own(shapes, samples, limit, ranks):
    sequences = groups_of(shapes, samples)
    found = []
    for rank in range(ranks):
        for batch in pack(sequences, limit, rank, ranks, share_prompts=True):
            bounds = batch.cu_seqlens.tolist()
            continues = [-1] * (len(bounds) - 1) if batch.continues is None else batch.continues.tolist()
            parts = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
            assert bounds[-1] == len(batch.tokens) <= limit and batch.max_seqlen == int(batch.positions.max()) + 1
            for part, parent in zip(parts, continues, strict=True):
                if (index := int(batch.sequence[part][0])) == -1:  # a shared part, or padding
                    assert not batch.mask[part].any() and parent == -1
                    continue
                before = batch.tokens[parts[parent]].tolist() if parent >= 0 else []
                whole = before + batch.tokens[part].tolist()
                last = int(batch.targets[part][-1])  # 0: none
                assert batch.sequence[part].tolist() == [index] * (part.stop - part.start)
                assert batch.positions[part].tolist() == list(range(len(before), len(whole)))
                responses = batch.targets[part][batch.mask[part]].tolist()
                assert set(batch.advantages[part][batch.mask[part]].tolist()) <= {float(r) for r in responses[:1]}
                whole += [last] if last else []
                found.append((whole[: len(whole) - len(responses)], responses))
    assert sorted(found) == sorted((s.prompt_ids, s.response_ids) for s in sequences)


def test_a_prompt_is_shared_by_as_many_samples_as_fit() -> None:
    sequences = groups_of([(20, 10)], 4)  # 20 + 10, 9, 8, 7
    (batch,) = pack(sequences, 128, share_prompts=True)
    assert batch.cu_seqlens.tolist()[:6] == [0, 19, 29, 38, 46, 53]
    first, second = pack(sequences, 45, share_prompts=True)
    assert [batch.continues is None for batch in (first, second)] == [False, False]
    assert sorted(int((batch.tokens == 1).sum()) for batch in (first, second)) == [1, 1]


def test_few_micro_batches_of_about_the_same_fill():
    sequences = sequences_of([(7, 3 + i % 5) for i in range(64)])
    total = sum(len(sequence) - 1 for sequence in sequences)
    batches = pack(sequences, 200)
    assert len(batches) == -(-total // 200)
    fills = [int((batch.sequence >= 0).sum()) for batch in batches]
    assert max(fills) - min(fills) <= 12


def test_length_is_cut_to_what_the_fullest_micro_batch_needs():
    (batch,) = pack(sequences_of([(10, 10)] * 9), 4096)
    assert len(batch.tokens) == 256


def test_sequences_that_just_fit_leave_no_padding():
    (batch,) = pack([make(3, 3), make(3, 3, base=50)], 10)
    assert batch.sequence.tolist() == [0] * 5 + [1] * 5
    assert batch.cu_seqlens.tolist() == [0, 5, 10]


def test_the_last_token_is_a_target_and_not_in_the_row():
    (batch,) = pack([TrainSequence([5, 6], [7, 8])], 10)
    assert batch.cu_seqlens.tolist() == [0, 3, 10]
    assert batch.tokens[:3].tolist() == [5, 6, 7]
    assert batch.targets[batch.mask].tolist() == [7, 8]


def test_token_weights_go_to_their_tokens():
    (batch,) = pack([TrainSequence([5], [6, 7, 8], advantage=[0.1, 0.2, 0.3])], 8)
    assert batch.advantages.tolist() == pytest.approx([0.1, 0.2, 0.3, 0, 0, 0, 0, 0])
    assert batch.rollout_logprobs.eq(0).all()


def test_empty_like_has_the_same_fields_and_no_targets():
    (batch,) = pack([make(3, 4)], 16)
    batch.old_logprobs = torch.ones(16)
    empty = empty_like(batch)
    assert not empty.mask.any()
    assert empty.cu_seqlens.tolist() == [0, 16]
    assert empty.old_logprobs.tolist() == [0.0] * 16
    assert empty.ref_logprobs is None


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "no sequences"),
        ([make(3, 8)], "3 prompt \\+ 8 response tokens, more than grpo.tokens_per_microbatch=10"),
        ([TrainSequence([], [1, 2], 0.0)], "no prompt tokens"),
        ([TrainSequence([1], [2, 3], 0.0, [-1.0])], "1 values of rollout_logprobs for 2 response tokens"),
        ([TrainSequence([1], [2, 3], [])], "0 values of advantage for 2 response tokens"),
    ],
)
def test_unusable_sequences_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        pack(sequences, 10)


# Operations of a row of an 8B model, forward: matrices for each place, attention by the square of a sequence's length.
LAYERS, HIDDEN, FFN, KEYS = 32, 4096, 14336, 1024
OF_A_PLACE = 2 * LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * FFN)
OF_A_SQUARE = 4 * LAYERS * HIDDEN / 2  # scores and values, the causal half


@pytest.mark.parametrize(
    ("limit", "mean", "longest", "sigma", "most"), [(8192, 800, 2048, None, 0.001), (32768, 8000, 32000, 1.0, 0.03)]
)
def test_ranks_balanced_by_tokens_are_nearly_balanced_by_operations(
    limit: int, mean: int, longest: int, sigma: float | None, most: float
) -> None:
    random, ranks = numpy.random.default_rng(0), 32
    drawn = random.exponential(1, 1024) if sigma is None else random.lognormal(-(sigma**2) / 2, sigma, 1024)
    lengths = (200 + numpy.minimum(mean * drawn, longest).astype(int)).tolist()
    rows = divide(lengths, limit, ranks)
    assert max(sum(lengths[i] for i in row) for row in rows) <= limit
    costs = [limit * OF_A_PLACE + OF_A_SQUARE * sum(lengths[i] ** 2 for i in row) for row in rows]
    each = [sum(costs[rank::ranks]) for rank in range(ranks)]
    assert max(each) * ranks / sum(each) - 1 < most


def test_a_run_meets_few_lengths_of_rows() -> None:
    random, lengths = numpy.random.default_rng(0), set()
    for _ in range(12):
        responses = numpy.minimum(random.exponential(870, 1024), 2048).astype(int)
        sequences = [TrainSequence([1] * 200, [1] * (1 + response)) for response in responses]
        lengths.add(share_out(sequences, 8192, data_size=8).length)
    assert len(lengths) <= 5 and all(length % 128 == 0 and length <= 8192 for length in lengths)
