import pytest
import torch

import alphamed_nemo.policy.logprobs as logprobs_module
from alphamed_nemo.policy.logprobs import token_logprobs
from tests.spawn import spawn

VOCAB, PADDED, ROWS = 101, 104, 37


def logits_and_targets(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(ROWS, PADDED, generator=generator)
    logits[:, VOCAB:] = 50.0  # padding that would dominate the softmax if it entered
    return logits.to(dtype), torch.randint(0, VOCAB, (ROWS,), generator=generator)


def reference(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64, over the real vocabulary only."""
    logp = torch.log_softmax(logits[:, :VOCAB].double() / temperature, dim=-1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_equal_float64(temperature):
    logits, targets = logits_and_targets()
    logprobs, entropy = token_logprobs(logits, targets, VOCAB, temperature)
    expected = reference(logits, targets, temperature)
    torch.testing.assert_close(logprobs.double(), expected[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected[1], rtol=1e-6, atol=1e-5)


def test_bfloat16_logits_are_reduced_in_float32():
    logits, targets = logits_and_targets(torch.bfloat16)
    logprobs, entropy = token_logprobs(logits, targets, VOCAB)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), reference(logits, targets, 1.0)[0], rtol=1e-6, atol=1e-5)


@pytest.fixture(params=["one block", "many blocks"], autouse=True)
def blocks(request, monkeypatch):
    """The same whether the rows are worked on at once or a few at a time."""
    if request.param == "many blocks":
        monkeypatch.setitem(logprobs_module._BLOCK_VALUES, "cpu", 2 * PADDED)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["logprob", "entropy", "both"])
def test_gradients_equal_float64(used):
    logits, targets = logits_and_targets()
    weights = torch.randn(2, ROWS, generator=torch.Generator().manual_seed(1)).double()

    def gradient(values: tuple[torch.Tensor, torch.Tensor], leaf: torch.Tensor) -> torch.Tensor:
        sum(weights[i] @ values[i].double() for i in used).backward()
        return leaf.grad.double()

    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = gradient(token_logprobs(leaf, targets, VOCAB, 0.7), leaf)
    expected = gradient(reference(exact, targets, 0.7), exact)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert found[:, VOCAB:].eq(0).all()


def test_no_rows_give_no_values():
    logits = torch.zeros(0, PADDED, requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.zeros(0, dtype=torch.int64), VOCAB)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == entropy.shape == (0,)


def split_over_ranks(temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """On each rank: its values, and the gradient of its part of the vocabulary."""
    import torch.distributed as dist

    logits, targets = logits_and_targets()
    leaf = logits.chunk(dist.get_world_size(), dim=1)[dist.get_rank()].clone().requires_grad_()
    logprobs, entropy = token_logprobs(leaf, targets, VOCAB, temperature, dist.group.WORLD)
    (logprobs.sum() + 0.3 * entropy.sum()).backward()
    return logprobs.detach(), entropy.detach(), leaf.grad


def test_a_vocabulary_split_over_ranks_gives_the_same_values_and_gradients():
    logits, targets = logits_and_targets()
    leaf = logits.double().requires_grad_()
    logprobs, entropy = reference(leaf, targets, 0.7)
    (logprobs.sum() + 0.3 * entropy.sum()).backward()
    ranks = spawn(split_over_ranks, 4, 0.7)  # the last rank holds 23 real ids and all the padding
    for found in ranks:
        torch.testing.assert_close(found[0].double(), logprobs.detach(), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(found[1].double(), entropy.detach(), rtol=1e-6, atol=1e-5)
    gradient = torch.cat([found[2] for found in ranks], dim=1).double()
    assert (gradient - leaf.grad).norm() < 1e-5 * leaf.grad.norm()


def test_the_gradient_may_take_the_place_of_the_logits():
    values, targets = logits_and_targets()
    leaf, exact = values.clone().requires_grad_(), values.double().requires_grad_()
    logits = leaf * 1.0
    logprobs, entropy = token_logprobs(logits, targets, VOCAB, 0.7, overwrite=True)
    loss = logprobs.sum() + 0.3 * entropy.sum()
    loss.backward(retain_graph=True)
    expected_logprobs, expected_entropy = reference(exact, targets, 0.7)
    (expected_logprobs.sum() + 0.3 * expected_entropy.sum()).backward()
    assert (leaf.grad.double() - exact.grad).norm() < 1e-5 * exact.grad.norm()
    assert torch.equal(logits.detach(), leaf.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
