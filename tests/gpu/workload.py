"""What the sections run: models with random weights and the dimensions of Qwen2.5, or 8B's, batches, and measures."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
from alphamed_nemo.plan.activations import activation_bytes, logit_bytes
from alphamed_nemo.plan.sizes import load_model
from alphamed_nemo.plan.states import fp8_copies, rank_states
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy

SIZES = {  # hidden, layers, heads, key-value heads, MLP
    "0.5B": (896, 24, 14, 2, 4864),
    "1.5B": (1536, 28, 12, 2, 8960),
    "3B": (2048, 36, 16, 2, 11008),
    "8B, 8 layers": (4096, 8, 32, 8, 14336),
    "tiny": (128, 2, 4, 2, 256),  # to try all this without a GPU
}
VOCAB = 151936
TEMPERATURE = 1.0
RATE = 1e-3  # of the optimizer, where it does not matter
WARM_UP, TIMED = (3, 5) if torch.cuda.is_available() else (0, 1)  # steps


def write_config(folder: Path, size: str) -> Path:
    """A folder with config.json alone; the policy draws the weights."""
    hidden, layers, heads, kv_heads, ffn = SIZES[size]
    Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=ffn,
        vocab_size=VOCAB if size != "tiny" else 512,
        tie_word_embeddings=hidden < 4096,
        max_position_embeddings=32768,
        initializer_range=0.02,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    return folder


def write_model(folder: Path, size: str) -> Path:
    """The same with weights in bfloat16."""
    config = Qwen2Config.from_pretrained(write_config(folder, size))
    torch.manual_seed(0)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def sequences(count: int, prompt: int, response: int, vocab: int) -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(0, vocab, (length,), generator=generator).tolist()

    return [TrainSequence(ids(prompt), ids(response), advantage=(-1.0) ** i) for i in range(count)]


def loss_fn(logprobs: torch.Tensor, entropy: torch.Tensor, batch: PackedBatch) -> tuple[torch.Tensor, dict]:
    return -(logprobs * batch.advantages).sum() / 1e4, {"tokens": batch.mask.sum()}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes of the device that torch's tensors take; 0 on a CPU, as `peak`."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def peak() -> int:
    """The most since `free`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def policy_logprobs(folder: Path, model: ModelConfig, rows: list[TrainSequence], limit: int) -> torch.Tensor:
    """Log-probs of the response tokens of every sequence, in order, under the folder's weights."""
    policy = MegatronPolicy(model, ParallelConfig(), None, folder)
    found = policy_logprobs_of(policy, rows, limit)
    del policy
    free()
    return found


def policy_logprobs_of(policy: MegatronPolicy, rows: list[TrainSequence], limit: int) -> torch.Tensor:
    """The same of a policy that is there."""
    batches = [pack([row], limit)[0] for row in rows]
    found = [values[batch.mask] for batch in batches for values in policy.logprobs([batch], TEMPERATURE)]
    return torch.cat(found).double()


def transformers_logprobs(folder: Path, rows: list[TrainSequence], dtype: torch.dtype) -> torch.Tensor:
    """The same by transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device()).eval()
    found = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids], device=device())
        with torch.inference_mode():
            logits = model(ids).logits[0, len(row.prompt_ids) - 1 : -1].float()
        targets = ids[0, len(row.prompt_ids) :, None]
        found.append(logits.log_softmax(-1).gather(-1, targets)[:, 0].cpu())
    del model
    free()
    return torch.cat(found).double()


def mult_prob_error(first: torch.Tensor, second: torch.Tensor) -> float:
    """token_mult_prob_error: mean exp|first − second|."""
    return float((first - second).abs().exp().mean())


@dataclass
class Speed:
    """Of a train step.

    Attributes:
        tokens_per_s: trained, prompts included.
        utilisation: model operations (6 a parameter and token, and attention) over the GPU's dense BF16 peak.
        peak_gib: most that torch has allocated.
        planned_gib: weights, gradients, optimizer, FP8's copies, activations and logits as recipes/plan.py counts them.
        host_stops: how often the host waited for the GPU in one step.
    """

    tokens_per_s: float
    utilisation: float
    peak_gib: float
    planned_gib: float
    host_stops: int


@contextmanager
def host_stops() -> Iterator[list[str]]:
    """Collects where the host waits for the GPU: torch's own warnings there; nothing on a CPU."""
    found: list[str] = []
    if not torch.cuda.is_available():
        yield found
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            found += [f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]


def train_speed(folder: Path, model: ModelConfig, count: int, prompt: int, response: int, limit: int) -> Speed:
    """The median of some optimizer steps on `count` sequences packed into micro-batches of `limit` tokens."""
    free()
    policy = MegatronPolicy(model, ParallelConfig(), OptimConfig(lr=1e-6), folder, random_seed=1)
    batches = pack(sequences(count, prompt, response, policy.hf_config.vocab_size), limit)
    seconds = []
    for _ in range(WARM_UP + TIMED):
        synchronize()
        started = time.perf_counter()
        policy.train_step(batches, loss_fn, TEMPERATURE)
        synchronize()
        seconds.append(time.perf_counter() - started)
    step, most = median(seconds[WARM_UP:]), peak()
    with host_stops() as stops:
        policy.train_step(batches, loss_fn, TEMPERATURE)
    sizes, tokens = load_model(str(folder)), count * (prompt + response)
    packed = len(batches[0].tokens)
    parallel = ParallelConfig()
    states = rank_states(sizes, parallel, model.dtype, 0)
    planned = states.weights + states.gradients + states.optimizer
    planned += activation_bytes(sizes, parallel, model.dtype, model.recompute, packed, 0, len(batches))
    planned += logit_bytes(sizes, parallel, model.dtype, model.head_dtype, packed * response / (prompt + response))
    if model.fp8:
        planned += fp8_copies(sizes, parallel, 0)
    del policy, batches
    free()
    operations = 6 * (sizes.parameters - sizes.vocab * sizes.hidden) * tokens  # layers
    operations += 6 * sizes.vocab * sizes.hidden * count * response  # logits, at response positions alone
    operations += 6 * sizes.layers * sizes.queries * tokens * (prompt + response)  # attention, causal: half of 12
    return Speed(tokens / step, operations / step / 989e12, most / 2**30, planned / 2**30, len(stops))
