"""What the base model's own folder says of it: its name, where it is on the hub, its license and what that asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from alphamed_nemo import provenance
from alphamed_nemo.evaluation.journal import model_identity

UNKNOWN = "unknown"  # the hub's own identifier for a license that nobody has stated
LEGAL = ("license*", "licence*", "copying*", "notice*", "use_policy*")  # file names, in lower case
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # a folder of the hub's cache
_FOLDERS = set(
    "base cache checkpoints ckpts data hf hf.co home huggingface.co mnt model models out output runs".split()
)
_FOLDERS |= set("outputs pretrained tmp weights work workspace".split())
_LINK = re.compile(r"huggingface\.co/([\w.-]+/[\w.-]+)/blob/")
_FROM_TEXT = (  # opening words of a license file → identifier, and name where the identifier is "other"
    (r"apache license\s+version 2\.0", "apache-2.0", ""),
    (r"mit license", "mit", ""),
    (r"llama (\d(?:\.\d)?) community license", r"llama\1", ""),
    (r"qwen research license", "other", "qwen-research"),
    (r"qwen license agreement", "other", "qwen"),
)


@dataclass(frozen=True)
class Terms:
    """What a license asks of whoever passes on a model made from its own.

    Attributes:
        display: words to show prominently.
        notice: line of the file NOTICE.
        name_starts: how the model's name has to begin; empty where it is free.
    """

    display: str
    notice: str
    name_starts: str = ""


def _llama(version: str) -> Terms:
    name = "Meta Llama 3" if version == "3" else f"Llama {version}"
    display = "" if version == "2" else f"Built with {'Meta Llama 3' if version == '3' else 'Llama'}"
    title = "LLAMA 2" if version == "2" else name
    notice = f"{name} is licensed under the {title} Community License, Copyright © Meta Platforms, Inc. All Rights "
    return Terms(display, f"{notice}Reserved.", {"2": "", "3": "Llama-3"}.get(version, "Llama"))


def _qwen(title: str) -> Terms:
    notice = f"Qwen is licensed under the {title} AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved."
    return Terms("Built with Qwen", notice)


@dataclass(frozen=True)
class License:
    """The base model's license.

    Attributes:
        id: the hub's identifier; `UNKNOWN` where the folder does not tell.
        name, link: the license's own, where the identifier is "other".
        files: names of the license's papers in the base model's folder; they go into the release.
    """

    id: str = UNKNOWN
    name: str = ""
    link: str = ""
    files: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms | None:
        """What it asks for, of the families that this project trains; None where nothing beyond its papers."""
        for stated in (self.id, self.name):
            if found := re.match(r"(?:meta-)?llama-?(\d(?:\.\d)?)", stated.lower()):
                return _llama(found[1])
        titles = {"qwen-research": "Qwen RESEARCH LICENSE", "qwen": "Qwen LICENSE"}
        return _qwen(titles[self.name]) if self.name in titles else None


@dataclass(frozen=True)
class BaseModel:
    """The model that training started from.

    Attributes:
        folder: its files.
        name: on the hub where that is known, else that of the folder; never a path.
        hub: its name on the hub, or empty.
        made_from: the model that it says it was itself made from, or empty.
        license: see there.
        family: transformers' model_type.
    """

    folder: Path
    name: str
    hub: str
    made_from: str
    license: License
    family: str

    @classmethod
    def of(cls, folder: str | Path, trained_as: str = "") -> BaseModel:
        """Reads a Hugging Face folder.

        Args:
            folder: with config.json; README.md and the license's papers where it has them.
            trained_as: the path that the run knew the folder by, where it has moved since; its name then names it.
        """
        folder = Path(folder)
        about, config = front_matter(folder / "README.md"), provenance.read_json(folder / "config.json")
        own = _hub_name(folder, trained_as, about, config)
        made_from = about.get("base_model") or ""
        made_from = made_from[0] if isinstance(made_from, list) and made_from else made_from
        return cls(
            folder=folder,
            name=own or Path(trained_as or folder).resolve().name,
            hub=own,
            made_from=made_from if is_hub_name(made_from) and made_from != own else "",
            license=_license(folder, about),
            family=str(config.get("model_type", "")),
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """For provenance.json. `weights` is what evaluations of the base model carry."""
        names = ("config.json", "model.safetensors", "model.safetensors.index.json")
        files = [self.folder / name for name in names if (self.folder / name).is_file()]
        return {
            "name": self.name,
            "on_hub": bool(self.hub),
            "license": self.license.id,
            "weights": model_identity(self.folder),
            "files": provenance.digests(files),
        }


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the top of a model card; empty where there is none that can be read."""
    found = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", _text(path), re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        values = {}
    return values if isinstance(values, dict) else {}


def is_hub_name(name: Any) -> TypeGuard[str]:
    """Whether this is of the form `organization/model`, and not a path: no organization is called `models`."""
    if not isinstance(name, str) or name.count("/") != 1 or name[0] in ".~/":
        return False
    return name.partition("/")[0].lower() not in _FOLDERS and is_repository(name)


def is_repository(name: str) -> bool:
    """Whether the hub could have a repository of this name, with an organization or, as its oldest ones, without."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def legal_files(folder: Path) -> list[Path]:
    """The papers of a folder's license, by name."""
    found = [path for path in folder.iterdir() if path.is_file()]
    return sorted(path for path in found if any(Path(path.name.lower()).match(pattern) for pattern in LEGAL))


def _hub_name(folder: Path, trained_as: str, about: dict[str, Any], config: dict[str, Any]) -> str:
    """The name on the hub, from the surest evidence to the least; empty without any.

    `base_model` in a model's README is what it was made from, so that is no evidence.
    """
    for path in (str(folder), trained_as, str(folder.resolve())):
        if found := _SNAPSHOT.search(path):
            return f"{found[1]}/{found[2]}"
    index = about.get("model-index") or [{}]
    first = index[0] if isinstance(index, list) and isinstance(index[0], dict) else {}
    link = _LINK.search(str(about.get("license_link", "")))
    stated = [about.get("model_name"), about.get("model_id"), first.get("name"), link and link[1]]
    text = _text(folder / "README.md")
    for own in dict.fromkeys((Path(trained_as or folder).name, folder.name)):
        if re.search(r"\d", own):  # "base" or "model" may stand behind any slash
            stated += re.findall(rf"([\w.-]+/{re.escape(own)})(?![\w-])", text, re.IGNORECASE)
    stated.append(config.get("_name_or_path"))
    return next((name for name in stated if is_hub_name(name) and not Path(name).exists()), "")


def _license(folder: Path, about: dict[str, Any]) -> License:
    files = tuple(path.name for path in legal_files(folder))
    stated = about.get("license")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    if isinstance(stated, str) and re.fullmatch(r"[\w.+-]+", stated) and stated.lower() != UNKNOWN:
        name, link = (str(about.get(key) or "") for key in ("license_name", "license_link"))
        known = link.startswith("https://") or link in files
        return License(stated.lower(), name if re.fullmatch(r"[\w.+-]+", name) else "", link if known else "", files)
    for file in files:
        opening = " ".join(_text(folder / file)[:2000].lower().split())
        for pattern, id, name in _FROM_TEXT:
            if found := re.search(pattern, opening):
                return License(found.expand(id), name, file if name else "", files)
    papers = [file for file in files if file.lower().startswith(("licen", "copying"))]
    return License("other", "see-license-file", papers[0], files) if papers else License(files=files)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
