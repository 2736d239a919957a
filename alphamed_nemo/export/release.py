"""A release folder in Hugging Face's layout: weights, config, tokenizer, model card, provenance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphamed_nemo.export import provenance
from alphamed_nemo.export.card import ModelCard, render
from alphamed_nemo.export.shards import write_shards
from alphamed_nemo.policy.weights import hf_shapes

# Copied from the base model where it has them: tokenizer, generation defaults, and the papers that its license asks to
# travel along.
_COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_hf(
    weights: Iterable[tuple[str, Tensor | None]],
    hf_config: Any,
    base_folder: str | Path,
    out: str | Path,
    dtype: str,
    shard_gb: float = 5.0,
    card: ModelCard | None = None,
    config: Any = None,
    checkpoint: str | Path | None = None,
    check: Callable[[Path], float] | None = None,
    **more: Any,
) -> Path | None:
    """Writes a release folder from a stream of weights. Every rank calls it; rank 0 writes.

    It is written under a temporary name and takes its own only when it is complete and has passed `check`.

    Args:
        weights: what `stream_stored` or `MegatronPolicy.hf_weights` yields; none is kept.
        hf_config: transformers' config of the base model.
        base_folder: the base model: config.json, tokenizer and license files come from there.
        out: the release folder; an earlier release there is replaced, anything else is refused.
        dtype: float32 | bfloat16, of the weights in the files.
        shard_gb: the largest size of a weight file, in 10^9 bytes.
        card: what the model card says.
        config: the run's settings, for provenance.json.
        checkpoint: the checkpoint that the weights come from, for provenance.json.
        check: called with the folder under its temporary name: raises where the model is not the right one, returns
            the largest logits difference, which provenance.json records.
        more: further entries of provenance.json.

    Returns:
        The folder, on rank 0; None on the other ranks.

    Raises:
        ValueError: the dtype is unknown, `out` holds something else, or the weights are not those of the model.
    """
    base_folder, out = Path(base_folder), Path(out)
    _refuse(base_folder, out, dtype)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        for _ in weights:
            pass
        return None
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_shards(weights, hf_shapes(hf_config), partial, DTYPES[dtype], shard_gb)
        _copy_from_base(base_folder, partial)
        (partial / "config.json").write_text(_config_json(base_folder, dtype))
        (partial / "README.md").write_text(render(card or ModelCard()))
        if check is not None:
            more["largest_logit_difference"] = check(partial)
    except BaseException:
        shutil.rmtree(partial)
        raise
    files = [path for path in partial.iterdir() if path.is_file()]
    source = Path(checkpoint) if checkpoint else None
    origin = provenance.collect(files, base_folder, source, config, dtype=dtype, **more)
    (partial / provenance.NAME).write_text(json.dumps(origin, indent=2) + "\n")
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return out


def _refuse(base_folder: Path, out: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"export.dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not (base_folder / "config.json").is_file():
        raise ValueError(f"{base_folder}: config.json is missing; expected the base model's Hugging Face folder")
    if out.resolve() == base_folder.resolve():
        raise ValueError(f"export.out: {out} is the base model's own folder; choose another")
    if out.exists() and any(out.iterdir()) and not (out / provenance.NAME).is_file():
        raise ValueError(
            f"export.out: {out} is there and is no release folder ({provenance.NAME} is missing); "
            "choose another, or remove it"
        )


def _copy_from_base(base_folder: Path, out: Path) -> None:
    for pattern in _COPIED:
        for path in base_folder.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, out / path.name)


def _config_json(base_folder: Path, dtype: str) -> str:
    """The base model's config with the type of the released weights, under the key that it uses for it."""
    config = json.loads((base_folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return json.dumps({**config, **dict.fromkeys(keys, dtype)}, indent=2) + "\n"
