"""Any layout of the policy computes what transformers computes on one process, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, lay_out, pack
from tests.spawn import spawn

VOCAB = 101  # odd: two tensor ranks need padding
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SIZES, rope_parameters=ROPE),
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=24),
}
TEMPERATURE = 0.8


def sequences() -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(0, VOCAB, (count,), generator=generator).tolist()

    prompts = [ids(1 + 14 * group) for group in range(5)]  # of three responses each, and of two
    return [TrainSequence(prompts[i // 3], ids(1 + (7 * i) % 40), advantage=0.6 - i / 12) for i in range(14)]


TOKENS = sum(len(s.response_ids) for s in sequences())


def loss_fn(logprobs: torch.Tensor, entropy: torch.Tensor, batch: PackedBatch) -> tuple[torch.Tensor, dict]:
    loss = -(logprobs * batch.advantages + 0.05 * entropy).sum() / TOKENS
    mask = batch.mask
    return loss, {"tokens": mask.sum(), "logprob_min": torch.where(mask, logprobs.detach(), 0.0).min()}


def policy_of(folder: str, parallel: dict, optim: dict | None = None, **kwargs):
    from alphamed_nemo.policy.policy import MegatronPolicy

    names = {"dtype": "float32", "recompute": "none", "head_dtype": "model"}
    model = ModelConfig(**{name: kwargs.pop(name, default) for name, default in names.items()})
    optimizer = None if optim is None else OptimConfig(**optim)
    return MegatronPolicy(model, ParallelConfig(**parallel), optimizer, folder, **kwargs)


def own_batches(policy, parallel: dict, limit: int) -> list[PackedBatch]:
    return pack(sequences(), limit, policy.data_rank, parallel.get("data", 1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A small random model of each family, with norms and biases away from their initial values."""
    found = {}
    for family, config in FAMILIES.items():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
                elif "norm" not in name:
                    parameter.mul_(3.0)
        found[family] = str(tmp_path_factory.mktemp(family))
        model.save_pretrained(found[family])
    return found


Reference = tuple[dict[tuple[int, ...], torch.Tensor], dict[str, torch.Tensor]]


def reference(folder: str, trained: list[TrainSequence]) -> Reference:
    """transformers in float64: response log-probs by token ids, and gradients of the loss."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    logprobs, loss = {}, 0.0
    for s in trained:
        ids = torch.tensor([s.prompt_ids + s.response_ids])
        logp = torch.log_softmax(model(ids).logits[0] / TEMPERATURE, dim=-1)[len(s.prompt_ids) - 1 : -1]
        of_response = logp.gather(1, torch.tensor(s.response_ids)[:, None]).squeeze(1)
        loss = loss - (s.advantage * of_response - 0.05 * (logp.exp() * logp).sum(-1)).sum() / TOKENS
        logprobs[tuple(ids[0].tolist())] = of_response.detach()
    loss.backward()
    return logprobs, {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def references(folders) -> dict[str, Reference]:
    return {family: reference(folder, sequences()) for family, folder in folders.items()}


def by_tokens(batch: PackedBatch, values: torch.Tensor) -> dict[tuple[int, ...], torch.Tensor]:
    """The values under the mask of each sequence of a pack, by the sequence's tokens."""
    found = {}
    for index in range(int(batch.sequence.max()) + 1):
        here = batch.sequence == index
        key = batch.tokens[here].tolist() + batch.targets[here][-1:].tolist()
        found[tuple(key)] = values[here & batch.mask]
    return found


def all_logprobs(folder: str, parallel: dict, seed: int | None = None) -> dict[tuple[int, ...], torch.Tensor]:
    policy = policy_of(folder, parallel, random_seed=seed)
    batches = own_batches(policy, parallel, 256)
    found = {}
    for batch, values in zip(batches, policy.logprobs(batches, TEMPERATURE), strict=True):
        found |= by_tokens(batch, values)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parallel", [{}, {"tensor": 2, "pipeline": 2}, {"data": 2}], ids=["1", "tp2pp2", "dp2"])
def test_logprobs_equal_transformers(folders, references, family, parallel):
    ranks = spawn(all_logprobs, ParallelConfig(**parallel).world_size, folders[family], parallel)
    found = {}
    for rank in ranks:
        found |= rank
    expected, _ = references[family]
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key].double(), values, rtol=0, atol=1e-5)


def gradients(
    folder: str,
    parallel: dict,
    batches: list[list[PackedBatch]],
    overlap: bool = False,
    recompute: str = "none",
    head_dtype: str = "model",
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients of the global loss under Hugging Face names (rank 0), and the reduced metrics.

    Args:
        batches: the micro-batches of each data-parallel rank.
    """
    import torch.distributed as dist
    from megatron.core import parallel_state

    from alphamed_nemo.policy.optimizer import wrap
    from alphamed_nemo.policy.step import forward_backward

    policy = policy_of(folder, parallel, recompute=recompute, head_dtype=head_dtype)
    policy.model = wrap(policy.model, overlap)
    metrics = forward_backward(policy.model, batches[policy.data_rank], loss_fn, VOCAB, TEMPERATURE)
    group = parallel_state.get_data_parallel_group()
    for chunk in policy.model:
        for bucket in (bucket for buffer in chunk.buffers for bucket in buffer.buckets):
            # Each data-parallel rank has reduced its own part.
            part = bucket.grad_data.chunk(dist.get_world_size(group))[dist.get_rank(group)].clone()
            dist.all_gather_into_tensor(bucket.grad_data, part, group=group)
        for parameter in chunk.parameters():
            parameter.data = parameter.main_grad
    return {name: tensor for name, tensor in policy.hf_weights() if tensor is not None}, metrics


LAYOUTS = {
    "one micro-batch": ({}, 4096),
    "many micro-batches": ({}, 128),
    "tp2": ({"tensor": 2}, 256),
    "tp2, sequence parallel": ({"tensor": 2, "sequence": True}, 256),
    "pp2": ({"pipeline": 2}, 256),
    "pp2, interleaved": ({"pipeline": 2, "virtual_pipeline": 2}, 128),
    "dp2": ({"data": 2}, 256),
    "tp2 pp2, sequence parallel": ({"tensor": 2, "pipeline": 2, "sequence": True}, 256),
    "pp2 dp2": ({"pipeline": 2, "data": 2}, 128),
    "pp2 dp2, overlapped": ({"pipeline": 2, "data": 2}, 128),  # as on GPUs: reduced during the backward pass
    "tp2 pp2, selective recomputation": ({"tensor": 2, "pipeline": 2}, 128),
    "tp2 pp2, full recomputation": ({"tensor": 2, "pipeline": 2, "sequence": True}, 128),
    "shared prompts": ({}, 4096),
    "shared prompts, tp2 pp2, full recomputation": ({"tensor": 2, "pipeline": 2, "sequence": True}, 128),
    "shared prompts, pp2 dp2": ({"pipeline": 2, "data": 2}, 128),
    "float32 head, tp2": ({"tensor": 2}, 256),
    "float32 head, pp2 dp2": ({"pipeline": 2, "data": 2}, 128),
    "float32 head, tp2 pp2, full recomputation": ({"tensor": 2, "pipeline": 2, "sequence": True}, 128),
}


@pytest.mark.parametrize(
    ("layout", "family"),
    [(layout, "llama") for layout in LAYOUTS]
    + [
        (layout, family)
        for layout in ("tp2, sequence parallel", "pp2 dp2", "shared prompts")
        for family in ("qwen2", "qwen3")
    ]
    + [(layout, "qwen2") for layout in LAYOUTS if "float32 head" in layout],  # tied
)
def test_gradients_equal_transformers_in_every_layout(folders, references, layout, family):
    parallel, limit = LAYOUTS[layout]
    world = ParallelConfig(**parallel).world_size
    recompute = next((choice for choice in ("selective", "full") if f"{choice} recomputation" in layout), "none")
    overlap, share_prompts = "overlapped" in layout, "shared prompts" in layout
    head = "float32" if "float32 head" in layout else "model"
    data = parallel.get("data", 1)
    batches = [pack(sequences(), limit, rank, data, share_prompts) for rank in range(data)]
    ranks = spawn(gradients, world, folders[family], parallel, batches, overlap, recompute, head)
    logprobs, expected = references[family]
    found, metrics = ranks[0]
    assert_close(found, expected)
    assert metrics["tokens"] == TOKENS
    assert metrics["logprob_min"] == pytest.approx(float(torch.cat(list(logprobs.values())).min()), abs=1e-5)
    assert all(other == metrics for _, other in ranks)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    error = torch.stack([(found[name].double() - g).norm() for name, g in expected.items()]).norm()
    assert error < 1e-5 * norm
    for name, gradient in expected.items():
        assert (found[name].double() - gradient).norm() < 1e-4 * gradient.norm(), name


def with_responses_in(part: str) -> list[TrainSequence]:
    """Of a row of 256 tokens, of which each of two sequence-parallel ranks holds a half."""
    first, second, *_ = sequences()
    long = TrainSequence([7] * 130 + first.prompt_ids, second.response_ids, advantage=0.4)
    across = TrainSequence([5] * 120, (second.response_ids * 3)[:20], advantage=-0.3)
    return {"the first": [first, second], "the second": [long], "both": [across], "none": []}[part]


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("pipeline", [1, 2])
def test_gradients_whichever_sequence_parallel_ranks_hold_the_rows_that_count(folders, pipeline, recompute):
    # Logits are computed at these rows alone, of which a rank may hold all, some or none.
    parts = ("the first", "none", "the second", "both", "the second", "none")
    batches = [[lay_out([[s] for s in with_responses_in(part)], 256) for part in parts]]
    parallel = {"tensor": 2, "pipeline": pipeline, "sequence": True}
    ranks = spawn(gradients, 2 * pipeline, folders["qwen3"], parallel, batches, False, recompute)
    trained = [s for part in parts for s in with_responses_in(part)]
    found, metrics = ranks[0]
    assert_close(found, reference(folders["qwen3"], trained)[1])
    assert metrics["tokens"] == sum(len(s.response_ids) for s in trained)
    assert all(other == metrics for _, other in ranks)


def train(folder: str, parallel: dict, dtype: str, steps: int) -> list[tuple[float, float]]:
    policy = policy_of(folder, parallel, {"lr": 3e-3, "clip_grad": 0.5}, dtype=dtype)
    batches = own_batches(policy, parallel, 256)
    stats = [policy.train_step(batches, loss_fn, TEMPERATURE) for _ in range(steps)]
    return [(s.loss, s.grad_norm) for s in stats]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_training_follows_one_process_in_other_layouts(folders, dtype, tolerance):
    (alone,) = spawn(train, 1, folders["llama"], {}, dtype, 6)
    assert alone[-1][0] < alone[0][0] - 0.2  # it learns
    for parallel in ({"tensor": 2, "pipeline": 2}, {"data": 2, "tensor": 2, "sequence": True}):
        ranks = spawn(train, 4, folders["llama"], parallel, dtype, 6)
        assert all(rank == ranks[0] for rank in ranks)
        for (loss, norm), (expected_loss, expected_norm) in zip(ranks[0], alone, strict=True):
            assert loss == pytest.approx(expected_loss, abs=tolerance)
            assert norm == pytest.approx(expected_norm, rel=10 * tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_depend_on_the_seed_and_not_on_the_layout(tmp_path: Path, family):
    FAMILIES[family]().save_pretrained(tmp_path)  # a config is all that the folder needs
    (alone,) = spawn(all_logprobs, 1, str(tmp_path), {}, 5)
    (other,) = spawn(all_logprobs, 1, str(tmp_path), {}, 6)
    for split in spawn(all_logprobs, 4, str(tmp_path), {"tensor": 2, "pipeline": 2}, 5):
        for key, values in alone.items():
            torch.testing.assert_close(split[key], values, rtol=0, atol=1e-5)
            assert (other[key] - values).abs().max() > 1e-3


def broken_loss(folder: str, kind: str) -> tuple[str, bool]:
    """The error of a step whose loss or gradient is not finite, and whether the weights stayed."""
    policy = policy_of(folder, {}, {"lr": 0.1})
    before = {name: tensor.clone() for name, tensor in policy.hf_weights()}

    def loss(logprobs, entropy, batch):
        if kind == "loss":
            return logprobs.sum() / logprobs.new_zeros(()), {}
        return torch.where(batch.mask, logprobs - logprobs.detach(), 1.0).pow(0.5).sum(), {}  # gradient at 0 is inf

    try:
        policy.train_step(own_batches(policy, {}, 4096), loss, 1.0)
    except RuntimeError as error:
        return str(error), all(torch.equal(before[name], tensor) for name, tensor in policy.hf_weights())
    return "", False


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_update(folders, kind):
    ((message, unchanged),) = spawn(broken_loss, 1, folders["llama"], kind)
    assert "nan" in message.lower() or "inf" in message.lower()
    assert unchanged


def misuse(folder: str) -> list[str]:
    policy = policy_of(folder, {})
    messages = []
    for call in (
        lambda: policy.train_step(own_batches(policy, {}, 256), loss_fn, 1.0),
        lambda: policy.logprobs([], 1.0),
        lambda: policy.logprobs(own_batches(policy, {}, 256) + own_batches(policy, {}, 4096), 1.0),
    ):
        try:
            call()
        except (RuntimeError, ValueError) as error:
            messages.append(str(error))
    return messages


def test_misuse_is_named(folders):
    (messages,) = spawn(misuse, 1, folders["llama"])
    assert "without an optimizer" in messages[0]
    assert "no micro-batches" in messages[1]
    assert "pipeline messages need one length" in messages[2]
