"""A number that is NaN or infinite, on whatever rank it arises, stops all ranks with the same words."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.finite import NotFiniteError
from tests.integration.policy_runs import batches_of, build, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

LAYOUT = ParallelConfig(tensor=2, pipeline=2)


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    # Tied embeddings on two stages: each of them has a copy.
    return str(write_model(tmp_path_factory.mktemp("model"), "llama-tied-odd-vocabulary"))


def broken_weights(hf, parallel, dtype):
    """For each rank, value and parameter: the names before, and what every rank says once that rank has the value."""
    policy = build(hf, parallel, dtype)
    policy.check_weights()
    found = []
    for rank in range(dist.get_world_size()):
        for value in (math.nan, math.inf, -math.inf):
            mine = [parameter for chunk in policy.model for parameter in chunk.parameters()]
            place = len(mine) // 2
            before = mine[place].detach().clone()
            if dist.get_rank() == rank:
                with torch.no_grad():
                    mine[place].view(-1)[-1] = value
            with pytest.raises(NotFiniteError) as error:
                policy.check_weights()
            found.append(str(error.value))
            with torch.no_grad():
                mine[place].copy_(before)
    policy.check_weights()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_bad_weight_on_any_rank_stops_all_of_them_with_its_name(hf, dtype):
    ranks = spawn(broken_weights, 4, hf, LAYOUT, dtype)
    assert all(found == ranks[0] for found in ranks)
    stages = [message.split()[2] for message in ranks[0]]
    assert ranks[0] == [f"the weight {name} is NaN or infinite" for name in stages]
    # Ranks 0 and 1 are the first stage with layers 0 and 1, ranks 2 and 3 the second one.
    assert [int(name.split(".")[2]) // 2 for name in stages] == [0] * 6 + [1] * 6


def large_weights(hf):
    """Finite numbers whose sum is not."""
    policy = build(hf, ParallelConfig())
    with torch.no_grad():
        next(iter(policy.model[0].parameters())).fill_(3e38)
    policy.check_weights()
    return True


def test_large_weights_are_finite(hf):
    assert spawn(large_weights, 1, hf) == [True]


def broken_step(hf, parallel, kind):
    """The error of a step in which the last data-parallel rank alone is to blame; whether weights stayed."""
    policy = build(hf, parallel)
    before = weights_of(policy)
    last = policy.data_rank == parallel.data - 1

    def loss(logprobs, entropy, batch):
        if not last:
            return logprobs.sum(), {}
        if kind == "loss":
            return logprobs.sum() / logprobs.new_zeros(()), {}
        return torch.where(batch.mask, logprobs - logprobs.detach(), 1.0).pow(0.5).sum(), {}  # gradient at 0 is inf

    with pytest.raises(NotFiniteError) as error:
        policy.train_step(batches_of(1), loss, 1.0)
    return str(error.value), all(torch.equal(before[name], tensor) for name, tensor in weights_of(policy).items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [("loss", "the loss is -inf;"), ("gradient", "the gradient of embedding.word_embeddings.weight is NaN or inf")],
)
def test_a_step_of_one_data_parallel_rank_stops_the_others_and_changes_nothing(hf, kind, message):
    ranks = spawn(broken_step, 4, hf, ParallelConfig(tensor=2, data=2), kind)
    assert all(found == ranks[0][0] and unchanged for found, unchanged in ranks)
    assert ranks[0][0].startswith(message) and ranks[0][0].endswith("the weights were not changed")


def update_to_nan(hf):
    """AdamW with eps 0 divides 0 by 0 wherever a gradient is 0: loss and gradients are finite, the weights are not."""
    policy = build(hf, ParallelConfig())
    optimizer = policy.optimizer.optimizer
    for group in optimizer.param_groups:
        group["eps"] = 0.0

    def loss(logprobs, entropy, batch):
        return -(logprobs * batch.advantages).sum(), {}

    stats = policy.train_step(batches_of(1), loss, 1.0)
    assert math.isfinite(stats.loss) and math.isfinite(stats.grad_norm)
    with pytest.raises(NotFiniteError) as error:
        policy.check_weights()
    return str(error.value)


def test_an_update_that_makes_a_weight_nan_is_found_though_its_loss_and_gradient_are_finite(tmp_path):
    hf = str(write_model(tmp_path, "llama"))  # not tied: tokens that do not occur have a gradient of 0
    assert spawn(update_to_nan, 1, hf) == ["the weight embedding.word_embeddings.weight is NaN or infinite"]
