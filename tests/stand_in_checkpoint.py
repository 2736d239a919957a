"""Checkpoints that are whole by their manifest, without a model in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alphamed_nemo.policy.checkpoint import manifest

LAYOUT = {"tensor": 2, "pipeline": 1, "data": 1, "context": 1}
ABOUT = {"optimizer": True, "dtype": "float32", "layout": LAYOUT, "torch": "2.13.0", "megatron": "0.16.1"}


def write_checkpoint(path: Path, state: dict[str, Any], weights: bytes = b"", **about: Any) -> Path:
    """Writes `path` with every file that a checkpoint must have; `about` changes what its manifest says."""
    path.mkdir(parents=True)
    for name in manifest.REQUIRED:
        (path / name).write_text(f"{name} of {path.name}")
    (path / manifest.STATE).write_text(json.dumps(state))
    (path / "__0_0.distcp").write_bytes(weights)
    digests = {name: manifest.digest(path / name) for name in manifest.files_of(path)}
    manifest.write(path, digests, ABOUT | about)
    return path
