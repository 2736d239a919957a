"""A run's adapters as PEFT reads them: adapter_config.json and adapter_model.safetensors, exactly as they were trained.

One adapter of Megatron's becomes one for each Hugging Face matrix that its linear layer is made of: they share A, and
each has its own rows of B. So it is the same model, to the last bit of every factor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from alphamed_nemo.config import LoraConfig, ParallelConfig
from alphamed_nemo.config.choices import LoraTarget
from alphamed_nemo.config.file_writing import whole_folder, write_text, writing
from alphamed_nemo.export import leaks
from alphamed_nemo.export.release import DTYPES, Origin, copy_legal_files
from alphamed_nemo.policy import runtime
from alphamed_nemo.policy.checkpoint.adapted_weights import AdaptedWeights

CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"
MODULES: dict[LoraTarget, tuple[str, ...]] = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "linear_fc1": ("gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
}


def export_adapter(source: Path, origin: Origin, out: Path, dtype: str) -> Path:
    """Writes a checkpoint's adapters as a PEFT adapter; an earlier one there is replaced.

    Args:
        source: a checkpoint with LoRA.
        origin: of what it was trained from.
        out: the folder.
        dtype: float32 | bfloat16, of the file.

    Raises:
        ValueError: `out` holds something else, or a text must not be published.
        CheckpointError: the checkpoint is damaged, or of another model.
    """
    if out.exists() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise ValueError(f"export.out: {out} is there and is no adapter ({CONFIG} is missing); choose another")
    runtime.initialize(ParallelConfig())
    stored = AdaptedWeights(AutoConfig.from_pretrained(origin.base.folder), source, origin.base.folder)
    with whole_folder(out) as partial:
        copy_legal_files(origin.base, partial)
        name = origin.base.hub or origin.base.name
        write_text(partial / CONFIG, json.dumps(peft_config(stored.lora, name), indent=2) + "\n")
        write_text(partial / README, _readme(origin, stored.lora, name))
        leaks.check_texts(partial)
        tensors = {key: tensor.to(DTYPES[dtype]) for key, tensor in peft_tensors(stored).items()}
        with writing(partial / WEIGHTS):
            save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
    return out


def peft_config(lora: LoraConfig, base: str) -> dict[str, Any]:
    """The contents of adapter_config.json.

    Args:
        lora: of the adapters.
        base: name of the model that they belong to.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": adapted_modules(lora),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def adapted_modules(lora: LoraConfig) -> list[str]:
    """Hugging Face's names of the matrices that have an adapter."""
    return [module for target in lora.targets for module in MODULES[target]]


def peft_tensors(stored: AdaptedWeights) -> dict[str, Tensor]:
    """A [rank, in] and B [out, rank] of every matrix, by PEFT's names."""
    found: dict[str, Tensor] = {}
    for entry, a, b in stored.adapters():
        for name, rows in zip(entry.names, entry.adapter_rows(b), strict=True):
            place = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{place}.lora_A.weight"] = a.clone()  # files hold no tensor twice
            found[f"{place}.lora_B.weight"] = rows.contiguous()
    return found


def _readme(origin: Origin, lora: LoraConfig, base: str) -> str:
    """What the hub and a reader want to know."""
    front = [f"base_model: {origin.base.hub}"] if origin.base.hub else []
    front += ["library_name: peft", f"license: {origin.base.license.id}"]
    terms = origin.base.license.terms
    return "\n".join(
        [
            "---", *front, "---", "",
            f"# LoRA adapter for {base}", "",
            *([terms.display, ""] if terms and terms.display else []),
            f"Trained with AlphaMed-NeMo for {origin.record.step} steps of GRPO: rank {lora.rank}, alpha "
            f"{lora.alpha:g}, on {', '.join(adapted_modules(lora))}.", "",
            "```python",
            "from peft import AutoPeftModelForCausalLM", "",
            'model = AutoPeftModelForCausalLM.from_pretrained("<this folder>")',
            "```", "",
            "For research; it gives no medical advice.", "",
        ]
    )  # fmt: skip
