"""Refits of small models of every family inside one process with vLLM: what is served after each, as JSON.

    python -m tests.integration.refit_models FOLDER OUTPUT CASE…  # family-tied|untied|redundant-dtype[-head dtype]

Starting a server for each would cost a quarter of a minute; here a model takes two seconds. The weights travel through
the real sender, the real segment and the real engine; only HTTP is left out.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from alphamed_nemo.config import Config
from alphamed_nemo.config.choices import HeadDtype
from alphamed_nemo.rollout.connection import RolloutError
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import read_manifest
from alphamed_nemo.rollout.vllm_command import vllm_command

# The vocabulary is no multiple of vLLM's padding, the key-value heads fewer than the heads.
SIZES = dict(
    hidden_size=128,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=330,
    max_position_embeddings=256,
    initializer_range=0.15,  # wide, so that log-probs show every weight
)
_draw = random.Random(3)
IDS = [_draw.randrange(SIZES["vocab_size"]) for _ in range(40)]
Weights = dict[str, torch.Tensor]


def write_model(folder: Path, family: str, head: str) -> None:
    """A random model as transformers saves it, with a tied or an own head; `redundant`: tied, and the file holds a copy
    of the head; `contradicting`: tied, and the file holds another head, which vLLM then serves."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**SIZES, tie_word_embeddings=head != "untied", dtype="float32"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases too differ from what they are made with
                parameter += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    if head in ("redundant", "contradicting"):
        stored = load_file(folder / "model.safetensors")
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
        if head == "contradicting":
            stored["lm_head.weight"] += 0.1
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def moved(weights: Weights, seed: int, only: str = "") -> Weights:
    """The weights, or one of them, a clear step further."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=draw) if only in ("", name) else tensor
        for name, tensor in weights.items()
    }


class InProcess:
    """Stands in for the HTTP connection: hands the calls of a refit to the engine in this process."""

    url, lost, instance = "http://127.0.0.1:9", "", None

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.version = "default"
        self.paused = False

    def call(
        self, method: str, path: str, waiting_for: str, *, retry: bool = True, answer: Any = dict, **request: Any
    ) -> Any:
        """Decodes as the connection does."""
        return msgspec.convert(self._called(path, **request), answer)

    def _called(self, path: str, **request: Any) -> dict:
        body = request.get("json") or {}
        try:
            if path == "/weight_info":
                return {"weight_version": self.version}
            if path == "/get_world_size":
                return {"world_size": 1}
            if path in ("/pause", "/resume"):
                self.paused = path == "/pause"
            else:
                arguments = {name: body[name] for name in ("init_info", "update_info") if name in body}
                self.llm.collective_rpc(path.strip("/"), kwargs=arguments)
            if path == "/finish_weight_update":
                self.version = body["weight_version"]
        except Exception as error:
            raise RolloutError(f"{path}: {error}") from error
        return {}

    def rejoin(self, anew: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


def start(folder: Path, dtype: str, head_dtype: HeadDtype = "model") -> tuple[Any, WeightTransfer]:
    """vLLM with the arguments of this project's server, in this process, and a transfer to it."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    argv, _ = vllm_command(config(folder, dtype, head_dtype), folder, 1, "key", cuda=False)
    options = make_arg_parser(FlexibleArgumentParser()).parse_args([*argv[3:], "--skip-tokenizer-init"])
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(options))
    manifest = replace(read_manifest(folder), dtype="float32")
    return llm, WeightTransfer([InProcess(llm)], config(folder, dtype).rollout, manifest, cuda=False)


def config(folder: Path, dtype: str, head_dtype: HeadDtype = "model") -> Config:
    cfg = Config()
    cfg.model.head_dtype = head_dtype
    cfg.model.path, cfg.model.max_length = str(folder), 128
    cfg.model.dtype = cfg.rollout.dtype = dtype
    cfg.rollout.memory_gb, cfg.rollout.threads = 0.05, 1
    return cfg


def served(llm: Any) -> list[float]:
    """The log-probs of IDS[1:], each given those before it."""
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": IDS}], asked, use_tqdm=False)
    return [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], IDS[1:], strict=True)]


def expected(model: Any, weights: Weights, dtype: str) -> list[float]:
    """The same by transformers in float64, from weights as the server's dtype holds them."""
    rounded = {name: tensor.to(getattr(torch, dtype)).double() for name, tensor in weights.items()}
    with torch.no_grad():
        logits = torch.func.functional_call(model, rounded, (torch.tensor([IDS]),)).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(IDS[1:]).unsqueeze(1)).squeeze(1).tolist()


def apart(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def run(folder: Path, family: str, head: str, dtype: str, head_dtype: HeadDtype = "model") -> dict[str, Any]:
    """Largest differences of log-probs, in nats.

    Returns:
        rounding: served at the start, from the exact ones.
        after: served after the refit to this version, from the exact ones.
        reached: served with one weight changed, from those at the start, by weight.
        alone: the same from the exact ones.
        refused: alone, and why, where the model served is not the one trained.
        back: served after a refit to the first weights, from those at the start.
    """
    from transformers import AutoModelForCausalLM

    write_model(folder, family, head)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    first = {name: parameter.detach().float() for name, parameter in model.named_parameters()}
    llm, transfer = start(folder, dtype, head_dtype)
    at_start = served(llm)
    if head == "contradicting":
        trained = {name: tensor for name, tensor in first.items() if name != "lm_head.weight"}  # tied: it has none
        try:
            transfer.refit(iter(trained.items()), 1)
        except RolloutError as error:
            return {"refused": str(error)}
    found: dict[str, Any] = {"rounding": apart(at_start, expected(model, first, dtype))}
    found |= {"after": {}, "reached": {}, "alone": {}}
    for version, weights in enumerate((moved(first, 1), moved(first, 2)), start=1):
        transfer.refit(iter(weights.items()), version)
        found["after"][version] = apart(served(llm), expected(model, weights, dtype))
    for number, name in enumerate(first):
        weights = moved(first, 100 + number, only=name)
        transfer.refit(iter(weights.items()), 3)
        found["reached"][name] = apart(served(llm), at_start)
        found["alone"][name] = apart(served(llm), expected(model, weights, dtype))
    transfer.refit(iter(first.items()), 4)
    found["back"] = apart(served(llm), at_start)
    transfer.close()
    return found


def as_the_server(program: str, folder: Path) -> None:
    """Starts this process anew with the environment of the server: LD_PRELOAD and threads cannot be set later."""
    write_model(folder / "any", "llama", "untied")
    environment = vllm_command(config(folder / "any", "float32"), folder / "any", 1, "key", cuda=False)[1]
    if os.environ.get("VLLM_PLUGINS") != environment["VLLM_PLUGINS"]:
        os.execve(sys.executable, [sys.executable, "-m", program, *sys.argv[1:]], os.environ | environment)


def main() -> None:
    folder, output, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    as_the_server("tests.integration.refit_models", folder)
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    found = {}
    for name in names:
        found[name] = run(folder / name, *name.split("-"))
        cleanup_dist_env_and_memory()
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
