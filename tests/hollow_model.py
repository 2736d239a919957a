"""Hugging Face folders whose safetensors have true headers and nothing but zeros behind them, at no cost of disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphamed_nemo.families import dimensions
from alphamed_nemo.weight_files import BYTES

SMALL_LLAMA = {  # the keys that decide its tensors
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 1024,
}


def write_hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """A file of these tensors, all zeros; a hole in a file takes no space."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def write_hollow_model(folder: Path, config: Mapping[str, Any]) -> Path:
    """config.json and the weights that it asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    write_hollow(folder / "model.safetensors", dimensions(config).tensors())
    return folder
