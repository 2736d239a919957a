"""With overlapped gathering of weights, whoever reads them right after an update reads the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from tests.integration.policy_runs import batches_of, stored_weights, train, weights_of
from tests.spawn import spawn

Weights = dict[str, torch.Tensor]
READERS = ["refit", "checkpoint", "finite", "reference", "logprobs"]


def read_after_updates(hf: str, overlap: bool, folder: str) -> tuple[dict[str, Weights], Weights]:
    """What each reader finds, right after an update of its own, and all weights at the end; rank 0's."""
    from alphamed_nemo.policy.checkpoint import folder as checkpoint
    from alphamed_nemo.policy.policy import MegatronPolicy
    from alphamed_nemo.policy.reference import ReferencePolicy

    layout = ParallelConfig(data=2, overlap_param_gather=overlap, overlap_grad_reduce=overlap)
    policy = MegatronPolicy(ModelConfig(dtype="float32"), layout, OptimConfig(lr=0.01), hf, random_seed=3)
    base = ReferencePolicy(policy)
    found: dict[str, Weights] = {}
    for step, reader in enumerate(READERS, start=1):
        train(policy, step)
        if reader == "refit":
            found[reader] = weights_of(policy)
        elif reader == "checkpoint":
            checkpoint.save(policy, Path(folder, "step_2"), {})
        elif reader == "finite":
            policy.check_weights()
            found[reader] = {name: weight.detach().clone() for name, weight in policy.model[0].named_parameters()}
        else:
            values = (base if reader == "reference" else policy).logprobs(batches_of(0), 1.0)
            found[reader] = {str(index): value for index, value in enumerate(values)}
    return found, weights_of(policy)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a config of a small model alone, whose weights are drawn."""
    folder = tmp_path_factory.mktemp("model")
    LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=64,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def both(hf: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Weights], Weights]]:
    """Without the overlap and with it."""
    runs = []
    for overlap in (False, True):
        folder = str(tmp_path_factory.mktemp("checkpoints"))
        found, weights = spawn(read_after_updates, 2, hf, overlap, folder)[0]
        found["checkpoint"] = spawn(stored_weights, 1, hf, f"{folder}/step_2")[0]
        runs.append((found, weights))
    return runs


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_right_after_an_update_finds_whole_weights(both: list, reader: str) -> None:
    (expected, _), (found, _) = both
    assert found[reader].keys() == expected[reader].keys() and found[reader]
    assert all(torch.equal(found[reader][name], value) for name, value in expected[reader].items())


def test_training_goes_on_as_without_the_overlap(both: list) -> None:
    (_, expected), (_, found) = both
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
