"""One vLLM server for all integration tests, as starting it costs a quarter of a minute; and a launcher for each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from alphamed_nemo.config import Config
from alphamed_nemo.launch.components import Component, free_port
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.rollout.connection import Connection, connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.vllm_command import vllm_command

START_TIMEOUT_S = 180.0
GRACE_S = 20


@dataclass
class ServedModel:
    """A running server and the Hugging Face folder that it was started from."""

    url: str
    api_key: str
    cfg: Config
    path: Path
    log: Path
    pid: int  # of the process above the server's own

    def pool(self) -> RolloutPool:
        return RolloutPool(self.connections(), self.cfg.rollout)

    def connections(self) -> list[Connection]:
        return connect(self.cfg.rollout)


def write_tiny_llama(path: Path, seed: int = 0, tied: bool = False) -> Path:
    """A random Llama (hidden 64, 2 layers, grouped heads, vocabulary 512) with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=list(special.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["A patient has a fever and a cough. The answer is \\boxed{A}."] * 4, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,  # heads of 32: the least that vLLM's CPU attention knows
        num_key_value_heads=1,
        intermediate_size=128,
        vocab_size=512,
        max_position_embeddings=512,
        initializer_range=0.2,  # wide, so that a distribution has a shape that a wrong formula would miss
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    # What many instruct models ship; the server must not let it change the sampling behind the trainer's back.
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=5, temperature=0.6, repetition_penalty=1.3, eos_token_id=2, pad_token_id=0
    )
    model.save_pretrained(path)
    return path


def wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(timeout=2.0) as client:  # one: each takes a tenth of a second of processor time to make
        while time.monotonic() < deadline:
            if process.poll() is not None:
                pytest.fail(f"vLLM ended with {process.returncode} before it was ready:\n{log.read_text()[-3000:]}")
            try:
                if client.get(f"{url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    pytest.fail(f"vLLM was not ready within {START_TIMEOUT_S:.0f} s:\n{log.read_text()[-3000:]}")


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with Launcher(tmp_path / "logs") as running:
        yield running


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model that the shared server serves. Read it, do not write into it."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def rollout_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """The shared server. A test that refits it must put the weights of the folder back."""
    with served(tiny_llama, tmp_path_factory.mktemp("rollout_server")) as server:
        yield server


@contextmanager
def served(
    model: Path, folder: Path, engines: int = 1, api_servers: int = 0, dtype: str = "float32", transfer: str = "auto"
) -> Iterator[ServedModel]:
    """A server of that model, ready; its log goes into the folder."""
    cfg = Config()
    cfg.model.path, cfg.model.max_length = str(model), 256
    cfg.model.dtype = cfg.rollout.dtype = dtype
    cfg.rollout.memory_gb, cfg.rollout.max_num_seqs, cfg.rollout.request_timeout_s = 0.1, 64, 60.0
    cfg.rollout.engines, cfg.rollout.api_servers, cfg.rollout.transfer = engines, api_servers, transfer
    port, log = free_port(), folder / "vllm.log"
    argv, env = vllm_command(cfg, model, port, "test-key", cuda=False)
    assert argv[0] == sys.executable
    wrapped = Component("vllm", argv, grace_s=GRACE_S).wrapped(str(os.getpid()))  # nothing of it is left behind
    with log.open("w") as output:
        process = subprocess.Popen(
            wrapped,
            env=os.environ | env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        cfg.rollout.urls, cfg.rollout.api_key = [url], "test-key"
        wait_until_ready(process, url, log)
        yield ServedModel(url, "test-key", cfg, model, log, process.pid)
    finally:
        process.terminate()
        process.wait(2 * GRACE_S)


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """A disk of that size at the folder; skips the test where none can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    tried = subprocess.run(command, capture_output=True)
    if tried.returncode:
        pytest.skip(f"no disk can be mounted here: {tried.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
