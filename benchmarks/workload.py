"""What the benchmarks run on: Llamas of random weights, questions of about 100 tokens, the settings of a run."""

from __future__ import annotations

import random
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.data.prompts import encode_prompt
from alphamed_nemo.data.question import Question

TOKENIZER = Path(__file__).resolve().parents[1] / "alphamed_nemo" / "assets" / "tiny_base"
PROMPT_TOKENS = 100


@dataclass(frozen=True)
class Shape:
    """A Llama. `ffn` is chosen so that the name is the number of parameters."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool = False


SHAPES = {
    "2M": Shape(layers=4, hidden=128, heads=4, kv_heads=2, ffn=384, vocab=4096),
    "7M": Shape(layers=6, hidden=256, heads=8, kv_heads=4, ffn=768, vocab=4096),
    "25M": Shape(layers=8, hidden=512, heads=16, kv_heads=8, ffn=1280, vocab=4096),
    # SmolLM-135M with 6 and 2 heads for its 9 and 3, so that 2 tensor ranks divide it.
    "135M": Shape(layers=30, hidden=576, heads=6, kv_heads=2, ffn=1536, vocab=49152, tied=True),
    "1B": Shape(layers=16, hidden=2048, heads=32, kv_heads=8, ffn=8192, vocab=128256, tied=True),  # Llama-3.2-1B's
}


def model_folder(folder: Path, name: str, dtype: str) -> Path:
    """A Hugging Face folder with random weights of the shape `name`; made once."""
    path = folder / f"{name}-{dtype}"
    if path.exists():
        return path
    shape = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    )
    torch.manual_seed(0)
    part = path.with_name(f".{path.name}.part")
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(path)
    return path


def long_questions(count: int) -> list[Question]:
    """Questions whose prompts are the first 100 tokens long or a few more: a context of other questions goes before."""
    tokenizer, rng = AutoTokenizer.from_pretrained(TOKENIZER), random.Random(0)
    bank, *_ = embedded_bank(count + 16, 0)
    settings = Config().data
    settings.prompt = "tiny"
    questions = []
    for question in bank[:count]:
        context, longer = "", question
        while len(encode_prompt(longer, tokenizer, settings)) < PROMPT_TOKENS:
            context = f"{context} {rng.choice(bank).stem}".strip()
            longer = Question(question.id, question.dataset, question.stem, question.options, question.answer, context)
        questions.append(longer)
    return questions


@dataclass(frozen=True)
class Layout:
    """Processes of a run: the trainer's ranks, and vLLM's engines, which share the cores."""

    name: str
    parallel: ParallelConfig
    engines: int

    @classmethod
    def one_a_core(cls, cores: int) -> Layout:
        """The fastest here: no operation is split, whole micro-batches and requests are."""
        return cls(f"{cores} data-parallel", ParallelConfig(data=cores), cores)


def run_config(
    folder: Path, name: str, model: Path, dtype: Dtype, layout: Layout, prompts: int, samples: int, tokens: int
) -> Config:
    """A run of GRPO on one machine, its step being `prompts` × `samples` responses of `tokens` tokens at most."""
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.run.loggers = str(folder), name, []
    cfg.model.path, cfg.model.dtype, cfg.model.max_length = str(model), dtype, 2048
    cfg.data.prompt = "tiny"
    cfg.parallel = copy(layout.parallel)
    cfg.optim.lr = 1e-6
    cfg.rollout.dtype, cfg.rollout.max_new_tokens = dtype, tokens
    cfg.rollout.engines, cfg.rollout.log_stats = layout.engines, False
    cfg.grpo.questions = str(folder / "questions.jsonl")
    cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = prompts, samples
    cfg.grpo.save_every, cfg.grpo.samples_kept = 10_000, 0
    return cfg
