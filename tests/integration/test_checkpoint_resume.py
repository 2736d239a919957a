"""A run that stops and resumes is the run that never stopped; in another layout it goes on as it would have."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.runtime import initialize
from tests.integration.policy_runs import build, draws, stored_weights, train, weights_of
from tests.spawn import spawn
from tests.tiny_hf import write_model

SAVED_BY = ParallelConfig(tensor=2, pipeline=2)
STATE = {"step": 3, "stream": {"epoch": 1, "pending": ["q7", "q2"]}, "carry": [], "share": 0.1 + 0.2}


def first_run(parallel, hf, folder, dtype):
    """Saves before any update and after the second and third; trains on to the fifth."""
    policy = build(hf, parallel, dtype)
    checkpoint.save(policy, f"{folder}/step_0", {"step": 0})
    losses = []
    for step in range(1, 6):
        losses.append(train(policy, step))
        if step in (2, 3):
            checkpoint.save(policy, f"{folder}/step_{step}", {**STATE, "step": step})
            numbers = draws()
    return losses, weights_of(policy), numbers


def resumed_run(parallel, hf, folder, dtype, number=3):
    policy = build(hf, parallel, dtype)
    state = checkpoint.load(policy, f"{folder}/step_{number}")
    numbers = draws()
    loaded = weights_of(policy)
    steps = {float(values["step"]) for values in policy.optimizer.optimizer.state.values()}
    losses = [train(policy, step) for step in range(number + 1, 6)]
    return losses, weights_of(policy), numbers, state, loaded, steps


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    # Tied embeddings on two stages, and a vocabulary that is padded at TP 2 and not at TP 1.
    return str(write_model(tmp_path_factory.mktemp("model"), "llama-tied-odd-vocabulary"))


@pytest.fixture(scope="module")
def saved(hf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    ranks = spawn(first_run, SAVED_BY.world_size, SAVED_BY, hf, str(folder), "float32")
    return folder, ranks


def test_resuming_in_the_same_layout_is_exact(hf, saved):
    folder, first = saved
    again = spawn(resumed_run, SAVED_BY.world_size, SAVED_BY, hf, str(folder), "float32")
    for before, after in zip(first, again, strict=True):
        assert after[0] == before[0][3:]
        assert after[2] == before[2]
        assert after[3] == STATE
        assert after[5] == {3.0}
    assert first[0][1].keys() == again[0][1].keys()
    assert all(torch.equal(first[0][1][name], again[0][1][name]) for name in first[0][1])


def fresh_draws():
    initialize(ParallelConfig())
    return draws()


def test_two_runs_from_the_beginning_draw_the_same_numbers():
    assert spawn(fresh_draws, 1) == spawn(fresh_draws, 1)


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(tensor=2, data=2),
        ParallelConfig(pipeline=2, virtual_pipeline=2),
        ParallelConfig(pipeline=2, data=2),
    ],
    ids=["tp1-pp1", "tp2-dp2", "pp2-interleaved", "pp2-dp2"],
)
def test_resuming_in_another_layout_gives_the_same_losses(hf, saved, parallel):
    folder, first = saved
    losses, weights, *_, loaded, steps = spawn(resumed_run, parallel.world_size, parallel, hf, str(folder), "float32")[
        0
    ]
    assert losses == pytest.approx(first[0][0][3:], rel=1e-5)
    assert steps == {3.0}
    # Two Adam updates of 3e-3: a wrong moment or step shows at that size.
    for name, tensor in first[0][1].items():
        assert (weights[name] - tensor).abs().max() < 2e-5, name
        assert not torch.equal(loaded[name], tensor), name


def test_resuming_from_before_the_first_update(hf, saved):
    folder, first = saved
    losses, *_ = spawn(resumed_run, SAVED_BY.world_size, SAVED_BY, hf, str(folder), "float32", 0)[0]
    assert losses == first[0][0]


def test_bfloat16_with_data_parallel_ranks_is_exact(hf, tmp_path):
    parallel = ParallelConfig(tensor=2, data=2)
    first = spawn(first_run, 4, parallel, hf, str(tmp_path), "bfloat16")
    again = spawn(resumed_run, 4, parallel, hf, str(tmp_path), "bfloat16")
    assert again[0][0] == first[0][0][3:]
    assert all(torch.equal(first[0][1][name], again[0][1][name]) for name in first[0][1])
    written = {path.name: path.stat().st_size for path in (tmp_path / "step_3").glob("*.distcp")}
    assert len(written) == 4, "each rank writes"
    assert min(written.values()) > 0.7 * sum(written.values()) / 4


def weights_alone(hf, checkpoints):
    """Offline: the weights of checkpoints in one process, without a model."""
    return [stored_weights(hf, folder) for folder in checkpoints]


def test_saves_hold_the_weights_of_their_step(hf, saved):
    folder, _ = saved
    paths = [f"{folder}/step_{n}" for n in (0, 2, 3)]
    zero, two, three = spawn(weights_alone, 1, hf, paths)[0]
    stored = load_file(f"{hf}/model.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(zero[name], tensor), name
        assert not torch.equal(two[name], three[name]), name


def messages_for_other_models(models, folder):
    found = []
    for hf in models:
        policy = build(hf, ParallelConfig())
        with pytest.raises(checkpoint.CheckpointError) as error:
            checkpoint.load(policy, f"{folder}/step_3")
        found.append(str(error.value))
    return found


def test_a_checkpoint_of_another_model_is_refused(saved, tmp_path):
    models = [str(write_model(tmp_path / name, name)) for name in ("qwen2", "qwen3")]
    other_names, other_shapes = spawn(messages_for_other_models, 1, models, str(saved[0]))[0]
    assert "step_3: does not fit the model" in other_names
    assert "decoder.layers.0.self_attention.linear_qkv.bias" in other_names
    assert "step_3: rank 0" in other_shapes and "shape mismatch" in other_shapes


def full_disk(hf, folder):
    """Saves, then saves again where no file may grow beyond 4 KB; returns the error and the files that are left."""
    import resource

    policy = build(hf, ParallelConfig(tensor=2))
    checkpoint.save(policy, f"{folder}/step_1", {"step": 1})
    train(policy, 1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.save(policy, f"{folder}/step_2", {"step": 2})
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return str(error.value)


def test_a_disk_that_refuses_ends_in_a_clear_error_and_leaves_older_checkpoints(hf, tmp_path):
    messages = spawn(full_disk, 2, hf, str(tmp_path))
    for message in messages:
        assert "step_2: not written" in message and "File too large" in message
        assert "Older checkpoints are untouched" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step_1"


def test_whole_checkpoints_pass_their_own_check(saved, caplog):
    folder, _ = saved
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(folder) == folder / "step_3"
    assert not caplog.records
