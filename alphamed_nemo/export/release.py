"""A release folder in Hugging Face's layout: weights, config, tokenizer, model card, provenance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from alphamed_nemo import provenance
from alphamed_nemo.config.file_writing import whole_folder, write_text, writing
from alphamed_nemo.data.prompts import encode_prompt, format_prompt, uses_chat_template
from alphamed_nemo.errors import ConversionError
from alphamed_nemo.evaluation.journal import model_identity
from alphamed_nemo.export import card, card_judged, card_results, leaks
from alphamed_nemo.export.base_model import BaseModel, legal_files
from alphamed_nemo.export.shards import write_shards
from alphamed_nemo.export.training_record import TrainingRecord, hub_sets
from alphamed_nemo.export.usage import EXAMPLE, TEMPLATE
from alphamed_nemo.policy.checkpoint import manifest
from alphamed_nemo.policy.weights.table import hf_shapes

# Copied from the base model where it has them, beside the papers of its license: tokenizer and generation defaults.
_COPIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
_ABOUT_THE_MAKER = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "cache_dir")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Origin:
    """Where the weights of a release come from."""

    base: BaseModel
    record: TrainingRecord

    @property
    def trained_dtype(self) -> str:
        """The type that the model was trained in; without a run, that of its base model."""
        config = provenance.read_json(self.base.folder / "config.json")
        known = [self.record.dtype, config.get("dtype"), config.get("torch_dtype")]
        return next((name for name in known if name in DTYPES), "float32")


def export_hf(
    weights: Iterable[tuple[str, Tensor | None]],
    hf_config: Any,
    origin: Origin,
    out: str | Path,
    dtype: str,
    shard_gb: float = 5.0,
    check: Callable[[Path], float] | None = None,
) -> Path | None:
    """Writes a release folder from a stream of weights. Every rank calls it; rank 0 writes.

    It is written under a temporary name and takes its own only when it is complete, has passed `check`, and no text in
    it says anything of this machine (export/leaks.py). What can be refused is refused before the first weight.

    Args:
        weights: what `stream_stored` or `MegatronPolicy.hf_weights` yields; none is kept.
        hf_config: transformers' config of the base model.
        origin: config.json, tokenizer and license files come from the base model's folder; card and provenance.json
            from what the run recorded.
        out: the release folder; an earlier release there is replaced, anything else is refused.
        dtype: float32 | bfloat16, of the weights in the files.
        shard_gb: the largest size of a weight file, in 10^9 bytes.
        check: called with the folder under its temporary name: raises ConversionError where the model is not the right
            one, and the folder stays there; returns the largest logit difference, which provenance.json records.

    Returns:
        The folder, on rank 0; None on the other ranks.

    Raises:
        ValueError: the dtype is unknown, `out` holds something else, the weights are not those of the model, or a text
            must not be published.
    """
    out = Path(out)
    _refuse(origin.base.folder, out, dtype)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        for _ in weights:
            pass
        return None
    shapes = hf_shapes(hf_config)
    found: dict[str, Any] = {}
    with whole_folder(out, kept=ConversionError) as partial:
        _copy_from_base(origin.base, partial)
        write_text(partial / "config.json", _config_json(origin.base.folder, dtype))
        _describe(origin, partial, dtype, shapes, found)
        leaks.check_texts(partial)
        write_shards(weights, shapes, partial, DTYPES[dtype], shard_gb)
        if check is not None:
            found["largest_logit_difference"] = check(partial)
        _describe(origin, partial, dtype, shapes, found)
        leaks.check_texts(partial)
    return out


def _describe(
    origin: Origin, folder: Path, dtype: str, shapes: dict[str, tuple[int, ...]], found: dict[str, Any]
) -> None:
    """Writes provenance.json and the model card about the files that are there.

    Args:
        origin: of the weights.
        folder: the release, under its temporary name.
        dtype: of the weights.
        shapes: of the weights.
        found: further entries of provenance.json.
    """
    base, record = origin.base, origin.record
    files = provenance.digests(path for path in folder.iterdir() if path.is_file())
    about = {
        "name": card.released_name(base, record),
        "model_sha256": provenance.model_sha256(files),
        "weights": model_identity(folder),
        "step": record.step,
        "dtype": dtype,
        **found,
        "base_model": base.identity,
        "checkpoint": {
            "name": record.checkpoint.name,
            "manifest_sha256": manifest.digest(record.checkpoint / manifest.NAME),
            **record.made_with,
        },
        "run": record.name or None,
        "data": _data(record),
        "config": provenance.public_settings(record.settings) if record.settings else None,
        "config_left_out": provenance.left_out(record.settings),
        "files": files,
        **provenance.conversion(),
    }
    write_text(folder / provenance.NAME, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    described = card.ModelCard(
        name=about["name"],
        base=base,
        record=record,
        dtype=dtype,
        parameters=sum(torch.Size(shape).numel() for shape in shapes.values()),
        prompt=_prompt(base, record),
        rows=card_results.find_results(record.folder.eval, about) if record.folder else [],
        free_text=card_judged.free_text(record.folder.eval, about) if record.folder else (card_judged.NOT_DONE,),
        on_hub=about["data"]["on_hub"],
        papers=[path.name for path in legal_files(folder)],
    )
    write_text(folder / provenance.CARD, card.render(described))


def _data(record: TrainingRecord) -> dict[str, Any]:
    """The training questions, for provenance.json."""
    path = record.locate(record.get("grpo.questions", "")) if record.data_sets else None
    return {
        "file": path and path.name,
        "sha256": path and manifest.digest(path),
        "sets": {one.name: {"hub": one.hub, "questions": one.questions} for one in record.data_sets},
        "passes": record.passes,
        "on_hub": hub_sets(record.settings, "evaluation"),
    }


def _prompt(base: BaseModel, record: TrainingRecord) -> card.Prompt | None:
    """How the model was asked in training, with an example."""
    if not record.settings:
        return None
    data, tokenizer = record.data, AutoTokenizer.from_pretrained(base.folder)
    invented = data.source == "clinic" and record.questions  # about the clinic this model knows more than about us
    question = record.questions[0] if invented else EXAMPLE
    chat = uses_chat_template(tokenizer, data)
    dated = chat and "date_string" in str(tokenizer.chat_template)
    sent = encode_prompt(question, tokenizer, data)
    return card.Prompt(
        template=format_prompt(TEMPLATE, data.prompt),
        text=format_prompt(question, data.prompt),
        sent=tokenizer.decode(sent, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        chat=chat,
        date=date.fromisoformat(data.template_date).strftime("%d %b %Y") if dated else "",
        thinking=data.thinking,
    )


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


def _copy_from_base(base: BaseModel, out: Path) -> None:
    """Tokenizer, generation defaults and the license's papers."""
    copied = [path for pattern in _COPIED for path in base.folder.glob(pattern) if path.is_file()]
    for path in copied:
        content = path.read_bytes()
        if path.name in ("tokenizer_config.json", "generation_config.json"):
            content = _without_maker(content)
        with writing(out / path.name):
            (out / path.name).write_bytes(content)
    copy_legal_files(base, out)


def copy_legal_files(base: BaseModel, out: Path) -> None:
    """The license's papers; NOTICE says what the license wants it to say."""
    for name in base.license.files:
        with writing(out / name):
            shutil.copyfile(base.folder / name, out / name)
    if (terms := base.license.terms) is not None:
        notices = [name for name in base.license.files if name.lower().startswith("notice")]
        text = "".join((out / name).read_text(encoding="utf-8") for name in notices)
        if terms.notice not in " ".join(text.split()):
            kept = (out / "NOTICE").read_text(encoding="utf-8") if "NOTICE" in notices else ""
            write_text(out / "NOTICE", f"{kept.rstrip()}\n\n{terms.notice}\n".lstrip())


def _without_maker(content: bytes) -> bytes:
    """A JSON file without the paths that transformers notes down where a model was saved; as it is without any."""
    try:
        values = json.loads(content)
    except ValueError:
        return content
    if not isinstance(values, dict) or not set(_ABOUT_THE_MAKER) & set(values):
        return content
    kept = {key: value for key, value in values.items() if key not in _ABOUT_THE_MAKER}
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def _config_json(base_folder: Path, dtype: str) -> str:
    """The base model's config with the type of the released weights, under the key that it uses for it."""
    config = json.loads((base_folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in _ABOUT_THE_MAKER}
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return json.dumps({**config, **dict.fromkeys(keys, dtype)}, indent=2) + "\n"
