"""What a run is: the settings and the contents that its checkpoints were trained with, and how another start differs.

Every checkpoint carries it in its state file, which the manifest covers. Imports no torch: a recipe compares before it
starts a process, and the trainer's rank 0 does again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphamed_nemo import user_code
from alphamed_nemo.config import Config
from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.files import known_settings
from alphamed_nemo.config.limits import setting
from alphamed_nemo.config.resuming import PLACES, TOKENIZER, on_resume
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.prompts import EXAMPLES, format_prompt, uses_chat_template
from alphamed_nemo.data.question import Question
from alphamed_nemo.policy.checkpoint.manifest import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "identity"  # of the state file
READERS = 8  # files hashed at a time: one core hashes 1 to 2 GB/s, and disks of clusters give several times that
VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
UNIMPORTANT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")  # of config.json
PROBE = Question("probe", "", "Which?", ("first", "second"), "A", context="Context.")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """A setting, or what it stands for, that is not the checkpoint's."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} ({_shown(self.before)} in the checkpoint, {_shown(self.now)} now)"


def identity(cfg: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, Any]]:
    """What this run is: `settings` by dotted name, and `contents`: a hash by the name of what it is of.

    Reads every byte of the base model the first time in a run folder, which keeps the hashes: a second per GB and core.
    """
    names = [name for name, *_ in known_settings() if on_resume(name) != "unasked" and name not in PLACES]
    return {"settings": {name: setting(cfg, name) for name in names}, "contents": _contents(cfg, tokenizer)}


def compare(stored: dict[str, Any] | None, now: dict[str, Any], accepted: Iterable[str], where: Path) -> None:
    """Refuses a resume that would mix two runs, and logs every other difference.

    Args:
        stored: `identity` of the run that the checkpoint is from; None where it does not say.
        now: of this start.
        accepted: `run.accept_changes`.
        where: the checkpoint.

    Raises:
        ValueError: names everything that differs and is refused, with both values.
    """
    if stored is None:
        log.warning("%s does not say what it was trained with: settings, questions and base are not compared", where)
        return
    refused = []
    for found in differences(stored, now):
        if on_resume(found.name) == "taken":
            log.warning("resumed with another %s: the new value is taken", found)
        elif found.name in accepted:
            log.warning("resumed with another %s, as run.accept_changes says", found)
        else:
            refused.append(found)
    if refused:
        names = ",".join(found.name for found in refused)
        raise ValueError(
            f"{where} was trained with another {'; another '.join(map(str, refused))}. Restore what it was, start "
            f"afresh with run.resume=false or another run.name, or accept the change: run.accept_changes=[{names}]"
        )


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What both know and differs: by value, or, where the value is the same, by contents."""
    found: dict[str, Difference] = {}
    for kind in ("settings", "contents"):
        before = stored.get(kind, {})
        for name, value in now[kind].items():
            if name in before and before[name] != value and name not in found:
                found[name] = Difference(name, before[name], value)
    return list(found.values())


def base_contents(folder: Path, cache: Path) -> str:
    """A hash of a base model's architecture and weights.

    Args:
        folder: the model's.
        cache: file that keeps the hashes of its files.
    """
    return _sha256(_base_model(folder, cache))


def questions_contents(questions: list[Question]) -> str:
    """Their number and a hash of all that they hold, in whatever order they are."""
    rows = sorted(map(asdict, questions), key=lambda row: row["id"])
    return f"{len(rows)} questions, {_sha256(rows)}"


def _contents(cfg: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    model = Path(cfg.model.path)
    prompt = [format_prompt(PROBE, cfg.data.prompt), *(map(repr, EXAMPLES.get(cfg.data.prompt, ())))]
    contents = {
        "model.path": base_contents(model, RunFolder.of(cfg).hashes),
        TOKENIZER: _sha256(_tokenizer(model, tokenizer)),
        "grpo.questions": questions_contents(read_questions(cfg.grpo.questions)),
        "data.prompt": _sha256(prompt),
    }
    if uses_chat_template(tokenizer, cfg.data):
        contents["data.chat_template"] = _sha256(tokenizer.chat_template)
    own = {"model.families": cfg.model.families, "reward.functions": cfg.reward.functions, "grpo.loss": [cfg.grpo.loss]}
    return contents | {key: _code(places, key) for key, places in own.items()}


def _code(places: list[str], key: str) -> str:
    """Names of functions and rows, and a hash of the files that those of the user's own are in."""
    names = ", ".join(map(user_code.name_of, places)) or "none"
    files = [user_code.source_file(place, key) for place in places if user_code.is_place(place)]
    return f"{names}, {_sha256([digest(file) for file in files if file is not None])}" if files else names


def _base_model(folder: Path, cache: Path) -> list[Any]:
    """Architecture and weights."""
    config = json.loads((folder / "config.json").read_text())
    weights = sorted(folder.glob("*.safetensors"))
    hashes = _hashes(weights, cache)
    return [{key: value for key, value in config.items() if key not in UNIMPORTANT}, hashes]


def _tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """Vocabulary, merges, and the tokens that begin and end a text."""
    files = [folder / name for name in VOCABULARY if (folder / name).is_file()]
    return [*map(digest, files), tokenizer.bos_token_id, tokenizer.eos_token_id]


def _hashes(files: list[Path], cache: Path) -> list[str]:
    """SHA-256 of each file; those that have not changed since they were last hashed are not read."""
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    marks = {str(file.resolve()): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    unread = [name for name, mark in marks.items() if known.get(name, [None])[:-1] != mark]
    if unread:
        log.info("hashing %.1f GB of the base model, once for this run", sum(marks[name][0] for name in unread) / 1e9)
    with ThreadPoolExecutor(READERS) as pool:
        fresh = dict(zip(unread, pool.map(lambda name: digest(Path(name)), unread), strict=True))
    entries = {name: [*mark, fresh.get(name) or known[name][-1]] for name, mark in marks.items()}
    if fresh:
        with whole_file(cache) as part:
            part.write_text(json.dumps(entries))
    return [entry[-1] for entry in entries.values()]


def _sha256(value: Any) -> str:
    return "sha256 " + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _shown(value: Any) -> str:
    """A hash by its beginning."""
    words = str(value).split()
    return " ".join(word[:12] if len(word) == 64 else word for word in words) or "empty"
