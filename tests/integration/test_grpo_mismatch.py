"""The gate finds other weights and another model than the engine's, and lets rounding pass, whatever the dtype.

The engine's part is transformers': another program, with the same weights, whose log-probs differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alphamed_nemo.config import Config, OptimConfig, ParallelConfig
from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.mismatch import Gates, MismatchError
from alphamed_nemo.grpo.share import sample
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.rollout.types import Rollout
from tests.integration import policy_runs
from tests.spawn import spawn

PROMPT, RESPONSE, SEQUENCES = 16, 40, 16
LAYERS, VOCABULARY = 6, 512
TOKENS = RESPONSE * SEQUENCES
RIGHT = {"token_mult_prob_error": 1.0, "logprob_difference_max": 0.0, "weight_version": 5.0}
OPTIM = OptimConfig(lr=3e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers with weights large enough that attention is not uniform, and norms that are not 1."""
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=LAYERS,
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        initializer_range=0.08,
    )
    built = LlamaForCausalLM(config).bfloat16()  # exact in both dtypes
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("mismatch") / "model"
    built.save_pretrained(folder)
    return folder


def sampled(hf: str, dtype: str) -> list[Rollout]:
    """Responses that transformers samples, with its log-probs in that dtype."""
    torch.manual_seed(1)
    engine = AutoModelForCausalLM.from_pretrained(hf, dtype=getattr(torch, dtype)).eval()
    prompts = torch.randint(3, VOCABULARY, (SEQUENCES, PROMPT))
    with torch.no_grad():
        ids = engine.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=RESPONSE,
            min_new_tokens=RESPONSE, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        logits = engine(ids).logits[:, PROMPT - 1 : -1].float()
    found = logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None]).squeeze(-1)
    return [
        Rollout(row[:PROMPT], row[PROMPT:], values, 5, False, "")
        for row, values in zip(ids.tolist(), found.tolist(), strict=True)
    ]


def faults(policy: MegatronPolicy, batches: list[PackedBatch]) -> dict[str, Callable[[], object]]:
    """Changes of the policy by name, each of which is undone from outside."""
    matrices = {name: p for name, p in policy.model[0].named_parameters() if p.ndim >= 2}
    norms = {name: p for name, p in policy.model[0].named_parameters() if p.ndim == 1}
    embedding, layer = next(n for n in matrices if "embedding" in n), f"layers.{LAYERS // 2}."

    def loss(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> tuple[Tensor, dict]:
        return -(logprobs * batch.advantages).sum() / TOKENS, {}

    found: dict[str, Callable[[], object]] = {
        "3% of all weights": lambda: [noise(p) for p in matrices.values()],
        "3% of the embedding": lambda: noise(matrices[embedding]),
        "no scale in one norm": lambda: next(p for name, p in norms.items() if layer in name).fill_(1.0),
        "rope of another base": lambda: rotary(policy).mul_(10.0 ** -(torch.arange(16) / 16)),
        "an update that the engine lacks": lambda: [policy.train_step(batches, loss, 1.0) for _ in range(2)],
    }
    for kind in ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"):
        weight = next(p for name, p in matrices.items() if layer in name and kind in name)
        found[f"3% of one {kind}"] = lambda weight=weight: noise(weight)
    return found


def noise(weight: Tensor) -> None:
    weight.mul_(1 + 0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))


def rotary(policy: MegatronPolicy) -> Tensor:
    module = policy.model[0]
    while hasattr(module, "module"):
        module = module.module
    return module.rotary_pos_emb.inv_freq


@contextmanager
def restored(policy: MegatronPolicy) -> Iterator[None]:
    tensors = [*policy.model[0].parameters(), rotary(policy)]
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def verdicts(hf: str, dtype: str, engine: str, wanted: set[str]) -> dict[str, str]:
    """What the gate says of the right policy and of the wanted faults (none named: all): nothing, or its message."""
    policy = policy_runs.build(hf, ParallelConfig(), dtype, OPTIM)
    rollouts = sampled(hf, engine)
    measured = sample([Group(Question("q", "d", "s", ("a", "b"), "A"), [r], [], []) for r in rollouts], 512)
    batches = pack([TrainSequence(r.prompt_ids, r.response_ids, 1.0, r.logprobs) for r in rollouts], 512)
    cfg = Config()
    cfg.model.dtype, cfg.rollout.dtype, cfg.grpo.tokens_per_microbatch = dtype, engine, 512
    exchange = Exchange(data_rank=0)

    def verdict() -> str:
        own = policy.logprobs(batches, 1.0)
        differences = [(o - b.rollout_logprobs)[b.mask].abs() for o, b in zip(own, batches, strict=True)]
        mean = torch.cat(differences).mean().item()
        metrics = RIGHT | {"logprob_difference_mean": mean, "trained_tokens": float(TOKENS)}
        try:
            limit = Gates(cfg, policy, exchange).check(metrics, measured, 5)["logprob_difference_limit"]
        except MismatchError as error:
            return str(error)
        assert limit > mean
        return ""

    said = {"nothing": verdict()}
    for name, change in faults(policy, batches).items():
        if wanted and name not in wanted:
            continue
        with restored(policy):
            with torch.set_grad_enabled("update" in name):
                change()
            _forget_rotary(policy)
            said[name] = verdict()
        _forget_rotary(policy)
    said["nothing again"] = verdict()
    return said


def _forget_rotary(policy: MegatronPolicy) -> None:
    """Megatron keeps the angles that it has computed."""
    module = policy.model[0]
    while hasattr(module, "module"):
        module = module.module
    module.rotary_pos_emb.forward.cache_clear()


@cache
def found(model: Path, dtype: str, engine: str) -> dict[str, str]:
    wanted = FOUND[dtype] if engine == "bfloat16" else set()
    (said,) = spawn(verdicts, 1, str(model), dtype, engine, wanted, timeout_s=900)
    return said


TYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")]
# What moves log-probs further than rounding to bfloat16 does, on both sides or on one.
COARSE = {"rope of another base", "an update that the engine lacks"}
FOUND = {"bfloat16": COARSE | {"3% of all weights", "no scale in one norm"}, "float32": COARSE}


@pytest.mark.parametrize(("dtype", "engine"), TYPES)
def test_rounding_passes_and_other_weights_do_not(model: Path, dtype: str, engine: str):
    said = dict(found(model, dtype, engine))
    assert (said.pop("nothing"), said.pop("nothing again")) == ("", "")
    assert len(said) >= len(COARSE) and {name for name, message in said.items() if not message} == set()


def test_the_message_has_the_numbers_and_the_setting(model: Path):
    message = found(model, "float32", "float32")["3% of all weights"].splitlines()[0]
    assert message.startswith("step 5: logprob_difference_mean is 0.")
    assert "that rounding explains, as measured on this policy (grpo.max_token_mult_prob_error" in message
