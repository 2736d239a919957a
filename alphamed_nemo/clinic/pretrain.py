"""Pre-trains the tiny base model on the clinic's corpus, from random weights, through the policy that GRPO trains too.

One pass over the corpus in its own order, plain next-token loss on the responses, AdamW with a cosine schedule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from alphamed_nemo.clinic.corpus import Text, corpus
from alphamed_nemo.clinic.tokenizer import save_tokenizer
from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig, TinyModelConfig
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.config.file_writing import writing
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.packing import PackedBatch, TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy, StepStats
from alphamed_nemo.processor import this_processor

MAX_LENGTH = 256  # tokens, prompt and response; GRPO's are below 100
RESPONSE_TOKENS = 30  # about the mean length of a response; divides the loss

log = logging.getLogger(__name__)


def pretrain(
    cfg: TinyModelConfig,
    folder: str | Path,
    parallel: ParallelConfig,
    on_step: Callable[[int, int, StepStats], None] | None = None,
) -> MegatronPolicy:
    """Trains the tiny base model and writes it, with its tokenizer, as a Hugging Face folder. Collective.

    The weights are bfloat16, so reading them as float32 changes nothing.

    Args:
        cfg: sizes, corpus, training.
        folder: where the model goes; created.
        parallel: the layout. The result depends on it through rounding only.
        on_step: called with (step from 1, steps, its figures) on every rank.

    Returns:
        The trained policy.

    Raises:
        ValueError: the corpus is smaller than a batch, or sizes do not fit together.
        NotFiniteError: a loss, a gradient or a weight became NaN or infinite; nothing is written.
    """
    folder = Path(folder)
    texts = list(corpus(cfg.worked_examples, cfg.late_examples, cfg.fact_documents, cfg.seed))
    steps = len(texts) // cfg.batch
    if steps <= cfg.warmup_steps:
        raise ValueError(
            f"tiny: {len(texts)} texts in batches of {cfg.batch} make {steps} steps, not more than "
            f"tiny.warmup_steps={cfg.warmup_steps}; ask for more worked examples"
        )
    runtime.initialize(parallel, cfg.seed)
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / "config.json"):
            llama_config(cfg).save_pretrained(folder)
        save_tokenizer(folder, cfg.vocab, MAX_LENGTH)
    dist.barrier()
    optim = OptimConfig(
        lr=cfg.lr,
        schedule="cosine",
        warmup_steps=cfg.warmup_steps,
        weight_decay=cfg.weight_decay,
    )
    dtype: Dtype = "bfloat16" if torch.cuda.is_available() else this_processor().fastest_dtype
    model = ModelConfig(path=str(folder), dtype=dtype, max_length=MAX_LENGTH)
    policy = MegatronPolicy(model, parallel, optim, folder, total_steps=steps, random_seed=cfg.seed)
    loss_fn = likelihood_loss(cfg.batch * RESPONSE_TOKENS)
    sequences = encode(texts, policy.tokenizer)
    for step in range(1, steps + 1):
        batch = sequences[(step - 1) * cfg.batch : step * cfg.batch]
        micro = pack(batch, cfg.batch * MAX_LENGTH // parallel.data, policy.data_rank, parallel.data)
        stats = policy.train_step(micro, loss_fn, temperature=1.0)
        if on_step:
            on_step(step, steps, stats)
    policy.check_weights()
    save(policy, folder)
    return policy


def llama_config(cfg: TinyModelConfig) -> LlamaConfig:
    """transformers' config of the tiny model."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=cfg.vocab,
        hidden_size=cfg.hidden,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.kv_heads,
        intermediate_size=cfg.ffn,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=cfg.tied,
        initializer_range=cfg.init_std,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="bfloat16",
    )


def encode(texts: list[Text], tokenizer: Any) -> list[TrainSequence]:
    """Training sequences: prompt, then response and end-of-sequence token. A text without a prompt starts from BOS."""
    prompts = tokenizer([text.prompt for text in texts])["input_ids"]
    responses = tokenizer([text.response for text in texts], add_special_tokens=False)["input_ids"]
    return [
        TrainSequence(prompt, [*response, tokenizer.eos_token_id])
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def likelihood_loss(normaliser: float) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Negative log-likelihood of the response tokens, divided by a constant.

    Divided by each batch's own number of tokens instead, a batch with many short guesses would weigh them more.
    """

    def loss_fn(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return -logprobs.sum() / normaliser, {"tokens": batch.mask.sum().float()}

    return loss_fn


def save(policy: MegatronPolicy, folder: Path) -> None:
    """Writes the weights as bfloat16 safetensors. Collective."""
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in policy.hf_weights()
        if tensor is not None
    }
    if weights:
        with writing(folder / "model.safetensors"):
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        log.info("wrote %s: %d tensors", folder, len(weights))
