"""What Transformer Engine's layers do, in a process of its own with the stand-in for its kernels.

python -m tests.integration.te_program SOURCE OUT    # SOURCE: the unpacked wheel; OUT: results, by torch.save
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.integration import te_stand_in

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_position_embeddings": 4096,
}
SPECS = ("local", "transformer_engine")
RECOMPUTE = ("none", "selective", "full")
FP8 = {"delayed": "hybrid", "current": "hybrid", "blockwise": "e4m3"}
STOPS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__")


def main(source: str, out: str) -> None:
    te_stand_in.install(source)
    from alphamed_nemo.config import ParallelConfig
    from alphamed_nemo.policy import model, runtime

    runtime.initialize(ParallelConfig())
    model.spec_name = lambda asked: asked.spec  # whatever this machine has
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "log-probs": {family: logprobs(config) for family, config in families(Path(folder)).items()},
            "gradients": gradients(families(Path(folder))["qwen2"]),
            "lora": lora(families(Path(folder))["qwen3"]),
            "checkpoints": {dtype: resumed(Path(folder), dtype) for dtype in ("float32", "bfloat16")},
            "recipes": {recipe: recipe_of(recipe) for recipe in FP8},
            "fp8 copies": matrices(families(Path(folder))["llama"]),
            "options": options(families(Path(folder))["llama"]),
            "stops": [stops(Path(folder), layers) for layers in (1, 3)],
        }
    torch.save(found, out)


def families(folder: Path) -> dict[str, str]:
    """Folders with config.json alone; the weights are drawn."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    made = {
        "llama": LlamaConfig(**SIZES, rope_parameters=ROPE, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**SIZES, head_dim=24, tie_word_embeddings=False),
    }
    for name, config in made.items():
        config.save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}


def policy_of(hf: str, spec: str, trained: bool = True, lora: Any = None, **model: Any) -> Any:
    """With biases and norms away from their initial values, so that they matter."""
    from alphamed_nemo.config import ModelConfig, OptimConfig, ParallelConfig
    from alphamed_nemo.policy.policy import MegatronPolicy

    settings = ModelConfig(spec=spec, **({"dtype": "float32"} | model))
    optim = OptimConfig(lr=1e-3) if trained else None
    policy = MegatronPolicy(settings, ParallelConfig(), optim, hf, random_seed=3, lora=lora)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(named(policy).items()):
            if parameter.dim() == 1:
                shift = torch.randn(parameter.shape, generator=generator) / 8
                parameter.add_(shift.to(parameter.dtype))
    return policy


def named(policy: Any) -> dict[str, Tensor]:
    """Parameters by the first of their names in the weight map, which both specs share."""
    from alphamed_nemo.policy.weights.binding import bind
    from alphamed_nemo.policy.weights.table import WeightTable

    return {bound.entry.megatron[0]: bound.parameter for bound in bind(policy.model, WeightTable(policy.hf_config))}


def batches() -> list[Any]:
    from alphamed_nemo.policy.packing import TrainSequence, pack

    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(0, SIZES["vocab_size"], (count,), generator=generator).tolist()

    return pack([TrainSequence(ids(5 + i), ids(20 + 7 * i), advantage=(-1.0) ** i) for i in range(6)], 256)


def loss_fn(values: Tensor, entropy: Tensor, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return -(values * batch.advantages + 0.01 * entropy).sum() / 100, {"tokens": batch.mask.sum()}


def logprobs(hf: str) -> dict[tuple[str, str], Tensor]:
    found = {}
    for spec in SPECS:
        for recompute in RECOMPUTE:
            policy, packs = policy_of(hf, spec, trained=False, recompute=recompute), batches()
            values = policy.logprobs(packs, 1.0)
            found[spec, recompute] = torch.cat([x[batch.mask] for x, batch in zip(values, packs, strict=True)])
    return found


def gradients(hf: str) -> dict[tuple[str, str], dict[str, Tensor]]:
    found = {}
    for spec in SPECS:
        for recompute in RECOMPUTE:
            policy = policy_of(hf, spec, recompute=recompute)
            policy.train_step(batches(), loss_fn, 1.0)
            found[spec, recompute] = {name: weight.main_grad.clone() for name, weight in named(policy).items()}
    return found


def lora(hf: str) -> dict[tuple[str, str], tuple[Tensor, dict[str, Tensor]]]:
    """Log-probs, and gradients of the adapters."""
    from tests.integration.lora_runs import LORA, drawn, held, put

    found = {}
    for spec in SPECS:
        for recompute in RECOMPUTE:
            policy, packs = policy_of(hf, spec, lora=LORA, recompute=recompute), batches()
            put(policy, drawn(hf))
            values = policy.logprobs(packs, 1.0)
            policy.train_step(packs, loss_fn, 1.0)
            adapters = [(name, part) for name, each in held(policy).items() for part in each.named_parameters(name)]
            gradients = {name: parameter.main_grad.clone() for _, (name, parameter) in adapters}
            logprobs = torch.cat([x[batch.mask] for x, batch in zip(values, packs, strict=True)])
            found[spec, recompute] = logprobs, gradients
    return found


def resumed(folder: Path, dtype: str) -> dict[str, Any]:
    """The kind of optimizer, and the weights after a third update: continued, and resumed after the second."""
    from alphamed_nemo.policy.checkpoint import folder as checkpoint

    hf, saved = str(folder / "llama"), folder / dtype / "step_2"
    saved.parent.mkdir()
    policy = policy_of(hf, "transformer_engine", dtype=dtype)
    for _ in range(2):
        policy.train_step(batches(), loss_fn, 1.0)
    checkpoint.save(policy, saved, {"step": 2})
    other = policy_of(hf, "transformer_engine", dtype=dtype)
    checkpoint.load(other, saved)
    for each in (policy, other):
        each.train_step(batches(), loss_fn, 1.0)
    kind = type(policy.optimizer.chained_optimizers[0].optimizer)
    weights = [{name: weight.detach().clone() for name, weight in named(each).items()} for each in (policy, other)]
    return {"optimizer": f"{kind.__module__}.{kind.__name__}", "continued": weights[0], "resumed": weights[1]}


def recipe_of(ours: str) -> tuple[str, str]:
    """(Transformer Engine's recipe, its format) that Megatron makes of a setting."""
    from megatron.core.fp8_utils import get_fp8_recipe

    recipe = get_fp8_recipe(config_of(dtype="bfloat16", fp8=FP8[ours], fp8_recipe=ours))
    return type(recipe).__name__, recipe.fp8_format.name


def config_of(**model: Any) -> Any:
    from transformers import LlamaConfig

    from alphamed_nemo.config import ModelConfig, ParallelConfig
    from alphamed_nemo.policy.model import transformer_config

    settings = ModelConfig(spec="transformer_engine", **model)
    return transformer_config(LlamaConfig(**SIZES), settings, ParallelConfig())


def matrices(hf: str) -> int:
    """Elements of the weights of Transformer Engine's linear layers, those that it keeps in FP8."""
    import transformer_engine.pytorch as te

    policy = policy_of(hf, "transformer_engine", trained=False)
    kinds = (te.Linear, te.LayerNormLinear)
    return sum(part.weight.numel() for chunk in policy.model for part in chunk.modules() if isinstance(part, kinds))


def options(hf: str) -> dict[str, Any]:
    """What the settings of docs/gpu.md are in Transformer Engine's modules."""
    from megatron.core.tensor_parallel import layers

    layers._grad_accum_fusion_available = True  # as with Apex, which the image has
    found = {}
    for name, fusions in (("plain", []), ("fused", ["gradient_accumulation", "rope", "bias_activation"])):
        policy = policy_of(hf, "transformer_engine", trained=False, fusions=fusions)
        layer = policy.model[0].decoder.layers[0]
        found[name] = {
            "fuse_wgrad_accumulation": layer.mlp.linear_fc1.fuse_wgrad_accumulation,
            "attention": type(layer.self_attention.core_attention).__name__,
            "activation": type(layer.mlp.activation_func).__name__,
            "eps": layer.mlp.linear_fc1.eps,
            "attention_dropout": layer.self_attention.core_attention.attention_dropout,
        }
    return found


def stops(folder: Path, layers: int) -> Counter:
    """Calls in one forward and backward pass for which the host would wait for a GPU, by the code that makes them."""
    from transformers import LlamaConfig

    LlamaConfig(**(SIZES | {"num_hidden_layers": layers})).save_pretrained(folder / f"{layers}")
    policy, found = policy_of(str(folder / f"{layers}"), "transformer_engine"), Counter()
    real = {name: getattr(Tensor, name) for name in STOPS}

    def counted(name: str) -> Any:
        def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            if "te_stand_in" not in frame.f_code.co_filename:  # its own maths
                found[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}: {name}"] += 1
            return real[name](self, *args, **kwargs)

        return call

    from alphamed_nemo.policy.step import forward_backward

    packs = batches()
    for name in STOPS:
        setattr(Tensor, name, counted(name))
    try:
        forward_backward(policy.model, packs, loss_fn, SIZES["vocab_size"], 1.0)
    finally:
        for name, function in real.items():
            setattr(Tensor, name, function)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
