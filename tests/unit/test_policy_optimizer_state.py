import pytest
import torch
from transformers import LlamaConfig

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from tests.spawn import spawn

SIZES = {
    "hidden_size": 36,  # sizes that no multiple of 128 divides: buckets are padded
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 50,
    "vocab_size": 19,
}


def saved(data: int, dtype: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[str], bool]:
    """After two updates, on one rank: what it saves of the optimizer, the same by another way, the weights that it
    saves, and whether the optimizer's own tensors are saved and no copies."""
    from megatron.core.dist_checkpointing.mapping import is_main_replica

    from alphamed_nemo.policy.checkpoint import optimizer_state
    from alphamed_nemo.policy.checkpoint import tensors as checkpoint_tensors
    from alphamed_nemo.policy.model import build_model
    from alphamed_nemo.policy.optimizer import build_optimizer, wrap
    from alphamed_nemo.policy.random_weights import initialize_weights
    from alphamed_nemo.policy.runtime import initialize

    layout, config = ParallelConfig(data=data), LlamaConfig(**SIZES)
    initialize(layout)
    built = build_model(config, ModelConfig(dtype=dtype), layout)
    initialize_weights(built, config, 1)
    chunks = wrap(built)
    optimizer, _ = build_optimizer(chunks, OptimConfig(lr=0.1, clip_grad=0.0))
    generator = torch.Generator().manual_seed(0)
    expected: dict[str, torch.Tensor] = {}
    for _ in range(2):
        for name, weight in chunks[0].module.named_parameters():
            gradient = torch.randn(weight.shape, generator=generator)
            weight.main_grad.copy_(gradient)
            before = expected.get(name, torch.zeros_like(gradient))
            expected[name] = 0.9 * before + 0.1 * gradient  # exp_avg
        optimizer.step()
    model = checkpoint_tensors.of_model(chunks[0].module)
    distributed = optimizer_state._distributed(optimizer)
    optimizer_state.share_weights(optimizer, model)
    written = {name for name, shard in model.items() if is_main_replica(shard.replica_id)}
    state = optimizer_state.sharded_state(optimizer, model, loading=False)["param_state"]
    name_of = {weight: name for name, weight in chunks[0].module.named_parameters()}
    order = [parameter for buffer in distributed.buffers for parameter in buffer.param_index_map]
    moments = {name_of[parameter]: state[index]["exp_avg"] for index, parameter in enumerate(order)}
    found = {name: shard.data for name, shard in moments.items() if is_main_replica(shard.replica_id)}
    own = {
        value.untyped_storage().data_ptr() for each in distributed.optimizer.state.values() for value in each.values()
    }
    shared = all(tensor.untyped_storage().data_ptr() in own for tensor in found.values())
    return found, expected, sorted(written & set(name_of.values())), shared


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("data", [1, 2, 4])
def test_each_moment_is_saved_whole_by_one_rank_and_a_rank_alone_copies_none(data: int, dtype: str) -> None:
    ranks = spawn(saved, data, data, dtype)
    elements = []
    written = []
    for found, expected, weights, shared in ranks:
        assert sorted(found) == weights, "a rank writes the weights whose moments it writes"
        written += weights
        elements.append(sum(tensor.numel() for tensor in found.values()))
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.view(expected[name].shape), expected[name], rtol=1e-5, atol=1e-6)
        assert shared is (data == 1)
    assert sorted(written) == sorted(ranks[0][1]) and len(written) > 10
    assert max(elements) < 1.2 * sum(elements) / data
